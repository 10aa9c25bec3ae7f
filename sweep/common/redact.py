"""Keep secrets out of what is printed and recorded."""

import re

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s@'\"]*@")

_ASSIGNED = re.compile(
    r"(?i)(?P<key>[a-z0-9_.-]*(?:password|passwd|secret|token(?!s|_per|izer)|api[_-]?key|"
    r"access[_-]?key|credential|authorization)[a-z0-9_.-]*['\"]?\s*[=:]\s*)"
    r"(?:\"[^\"]*\"|'[^']*'|(?:bearer\s+|basic\s+)?[^\s,;&]+)"
)


def redact(text: str) -> str:
    """Replace userinfo in addresses, and values assigned to names that look like secrets, by ***.

    `postgresql://ann:pw@host/db` becomes `postgresql://***@host/db`, `api_key=abc` becomes
    `api_key=***`.
    """
    text = _USERINFO.sub(r"\g<scheme>***@", text)
    return _ASSIGNED.sub(r"\g<key>***", text)
