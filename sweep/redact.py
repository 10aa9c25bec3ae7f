"""Keep secrets out of what is printed and recorded."""

import re

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s@'\"]*@")
_ASSIGNED = re.compile(
    r"(?i)(?P<key>[A-Za-z0-9_.-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|"
    r"credential|authorization)[A-Za-z0-9_.-]*)(?P<mark>\s*[=:]\s*)(?P<quote>['\"]?)"
    r"(?:bearer\s+|basic\s+)?[^\s,;'\"&]+"
)


def redact(text: str) -> str:
    """Replace userinfo in addresses, and values assigned to names that look like secrets, by ***.

    `postgresql://ann:pw@host/db` becomes `postgresql://***@host/db`, `api_key=abc` becomes
    `api_key=***`.
    """
    text = _USERINFO.sub(r"\g<scheme>***@", text)
    return _ASSIGNED.sub(r"\g<key>\g<mark>\g<quote>***", text)
