"""The WOD-E2E challenge's submission: sharded `E2EDChallengeSubmission` messages in one tar.gz.

Each part is one serialised message with every field of the form and its share of the frames; the parts lie in a folder
`part0 .. partN` that is archived whole.  One trajectory per frame, 20 points at 0.25 .. 5 s.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.io_wod import submission_protos
from efficientgen.eval.wod_e2e import POINTS
from efficientgen.perception.types import F64

FOLDER = "submission"
ARCHIVE = "submission.tar.gz"


class SubmissionError(ValueError):
    """A submission that the challenge would refuse."""


@dataclass(frozen=True)
class SubmissionForm:
    """What the challenge asks to be told; method and parameters must be given, and the account before an upload."""

    account_name: str  # the e-mail address that is registered; may be filled in later
    unique_method_name: str
    num_model_parameters: str  # e.g. "3B"
    uses_public_model_pretraining: bool
    authors: tuple[str, ...] = ()
    affiliation: str = ""
    description: str = ""
    method_link: str = ""
    public_model_names: tuple[str, ...] = ()


def check_form(form: SubmissionForm) -> None:
    """
    Raises:
        SubmissionError: a field that the challenge requires is empty.
    """
    for key, option in (("unique_method_name", "method"), ("num_model_parameters", "parameters")):
        if not getattr(form, key).strip():
            raise SubmissionError(f"the submission's {key} is empty; the challenge requires it (--{option})")


def write_submission(
    predictions: Iterable[tuple[str, F64]], form: SubmissionForm, directory: Path, per_shard: int = 500
) -> tuple[Path, int]:
    """Write `directory/submission.tar.gz` from (frame name, (20, 2) m); its path and the number of frames.

    Raises:
        SubmissionError: a field of the form is empty, no frame, one twice, or a trajectory of the wrong shape.
        WodPackageError: the protos are not installed.
    """
    check_form(form)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ARCHIVE
    draft = directory / f".{ARCHIVE}.new"
    names: set[str] = set()
    stream = iter(predictions)
    try:
        with tarfile.open(draft, "w:gz") as archive:
            shard = 0
            while chunk := list(islice(stream, per_shard)):
                payload = _message(chunk, form, names).SerializeToString()
                entry = tarfile.TarInfo(f"{FOLDER}/part{shard}")
                entry.size = len(payload)
                archive.addfile(entry, io.BytesIO(payload))
                shard += 1
        if not names:
            raise SubmissionError("there is no prediction to submit")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path, len(names)


def read_submission(path: Path) -> Iterator[Any]:
    """The messages of an archive, part by part.

    Raises:
        SubmissionError: no such archive.
    """
    parse = submission_protos().E2EDChallengeSubmission.FromString
    try:
        with tarfile.open(path, "r:gz") as archive:
            for entry in archive:
                file = archive.extractfile(entry)
                if file is not None:
                    yield parse(file.read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SubmissionError(f"{path} is no submission archive ({error})") from error


def _message(chunk: list[tuple[str, F64]], form: SubmissionForm, names: set[str]) -> Any:
    protos = submission_protos()
    message = protos.E2EDChallengeSubmission(
        submission_type=protos.E2EDChallengeSubmission.SubmissionType.E2ED_SUBMISSION,
        account_name=form.account_name,
        unique_method_name=form.unique_method_name,
        authors=form.authors,
        affiliation=form.affiliation,
        description=form.description,
        method_link=form.method_link,
        uses_public_model_pretraining=form.uses_public_model_pretraining,
        public_model_names=form.public_model_names,
        num_model_parameters=form.num_model_parameters,
    )
    for name, path in chunk:
        if not name or name in names:
            raise SubmissionError(f"frame '{name}' is predicted twice" if name else "a frame has no name")
        if np.shape(path) != (POINTS, 2) or not np.isfinite(path).all():
            raise SubmissionError(f"frame {name}: a submitted trajectory is ({POINTS}, 2) finite m")
        names.add(name)
        x, y = np.asarray(path, np.float64).T.tolist()
        message.predictions.add(frame_name=name, trajectory=protos.TrajectoryPrediction(pos_x=x, pos_y=y))
    return message
