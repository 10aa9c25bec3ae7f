"""A sweep's trials as CSV, one row each: what spreadsheets and data frames read."""

import csv
import io

from sweep.analysis.rows import trial_columns, trial_rows
from sweep.analysis.study import Study


def trials_csv(study: Study) -> str:
    """Return the trials in the order of suggestion (see trial_rows); numbers have every digit."""
    file = io.StringIO()
    writer = csv.DictWriter(file, trial_columns(study.config), lineterminator="\n")
    writer.writeheader()
    writer.writerows(trial_rows(study))
    return file.getvalue()
