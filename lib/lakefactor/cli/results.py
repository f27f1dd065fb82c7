"""Results that outlive a job: a file that a scheduler names, and that the next job is pointed at.

Works where no scheduler can read a driver's output, as on a cluster: the place is a folder or an object store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lakefactor.cli.output import json_text
from lakefactor.config.places import NO_PASSWORD, has_password
from lakefactor.errors import InputError, SnapshotError


def write_result(place: str, result: Mapping[str, Any]) -> None:
    """Write the result of a job to a file or URI; it appears whole or not at all.

    Raises
    ------
    InputError
        It cannot be written there.
    """
    from lakefactor.factorization.snapshot_folder import Folder

    folder, name = _parted(place)
    try:
        Folder(folder).write_bytes(name, json_text(result).encode())
    except (OSError, ValueError, SnapshotError) as error:
        raise InputError(f"--result {place} cannot be written: {error}") from error


NAMED = {
    "model_version": ("--model-version", "model_version"),
    "champion": ("A", "model_version"),
    "challenger": ("B", "model_version"),
    "tuned": ("--tuned", "study_id"),
}
"""Arguments of pipelines that may point at a result: what people call them, and the field that they mean."""


def named(argument: str, text: str | None) -> str | None:
    """Return what an argument names: directly, or as ``@PLACE``, in the result at that place.

    Parameters
    ----------
    argument : str
        A key of `NAMED`.
    text : str or None

    Raises
    ------
    InputError
        There is no result there, or it names nothing of the kind.

    Examples
    --------
    >>> named("model_version", "20261122-154312-3f9c"), named("model_version", None)
    ('20261122-154312-3f9c', None)
    """
    if text is None or not text.startswith("@"):
        return text
    from lakefactor.factorization.snapshot_folder import Folder

    folder, name = _parted(text[1:])
    option, field = NAMED[argument]
    try:
        return str(json.loads(Folder(folder).read_bytes(name))[field])
    except FileNotFoundError:
        raise InputError(f"{option} {text}: there is no result; has the job that makes it ended?") from None
    except (OSError, ValueError, KeyError, TypeError, SnapshotError) as error:
        raise InputError(f"{option} {text}: that is no result with a {field.replace('_', ' ')}: {error}") from error


def _parted(place: str) -> tuple[str, str]:
    """Part a place into its folder and a name.

    >>> _parted("s3://lake/_results/train.json"), _parted("train.json")
    (('s3://lake/_results', 'train.json'), ('.', 'train.json'))
    """
    if has_password(place):
        raise InputError(f"the place of a result {NO_PASSWORD}")
    folder, _, name = place.rpartition("/")
    return folder or ("/" if place.startswith("/") else "."), name
