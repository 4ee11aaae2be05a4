"""The one error tree of the project.

PipelineError                 whatever the project refuses; the command line prints it and exits with 1
├── ContractError             model.yaml is missing, malformed, or contradicts the model or the platform
├── DataError                 what a model is trained on is missing, malformed or not enough
├── ModelError                a trained model cannot be loaded, exported or trusted
├── PayloadError              a request or an answer is not what its payload format says
├── ImageError                a serving image is unknown, has ended, or does not fit the framework or the format
├── ParameterError            a value that is given to a command or a pipeline is none that is allowed
├── StorageError              a bucket or an object is missing, damaged, changes meanwhile or cannot be written
├── DiskError                 a disk of this machine is full, or may not be written
├── VertexError               Vertex AI refused a call or did not finish it in time
├── VerificationError         a deployed model answers, but not as the source model does
├── RollbackError             an endpoint has no model to return to
├── EvaluationError           a retrained model and the one that serves cannot be held against each other
├── ScheduleError             a schedule does not exist, or cannot be what is asked
├── JobError                  a pipeline job failed or was cancelled
└── LocalError                the local Vertex AI cannot be started

What the prediction server adds, with the status of each, stands in containers/serving/outcomes.py.
"""

from components.earthengine.redaction import redact


class PipelineError(Exception):
    """Base of every error that a user can mend; its text says what, where, what is allowed and how.

    Credentials in the text are taken out of it.
    """

    exit_status = 1

    def __init__(self, text: str) -> None:
        super().__init__(redact(text))


class ContractError(PipelineError):
    """model.yaml is missing, malformed, or contradicts the model or the platform."""


class DataError(PipelineError):
    """What a model is trained on is missing, malformed or not enough."""


class ModelError(PipelineError):
    """A trained model cannot be loaded, exported or trusted."""


class PayloadError(PipelineError):
    """A request or an answer is not what its payload format says."""


class ImageError(PipelineError):
    """A serving image is unknown, has ended, or does not fit the framework or the format."""


class ParameterError(PipelineError):
    """A value that is given to a command or a pipeline is none that is allowed."""


class StorageError(PipelineError):
    """A bucket or an object is missing, damaged, changes meanwhile or cannot be written."""


class DiskError(PipelineError):
    """A disk of this machine is full, or may not be written."""


class VertexError(PipelineError):
    """Vertex AI refused a call or did not finish it in time."""


class VerificationError(PipelineError):
    """A deployed model answers, but not as the source model does."""


class RollbackError(PipelineError):
    """An endpoint has no model to return to, or not the one that is named."""


class EvaluationError(PipelineError):
    """A retrained model and the one that serves cannot be held against each other."""


class ScheduleError(PipelineError):
    """A schedule does not exist, or cannot be what is asked."""


class JobError(PipelineError):
    """A pipeline job failed or was cancelled; its text names the step and the reason."""


class LocalError(PipelineError):
    """The local Vertex AI cannot be started."""
