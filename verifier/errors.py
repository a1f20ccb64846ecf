"""The exception tree. Every message is one line that names the thing, the reason and the way out."""


class VerifierError(Exception):
    """Base of all errors that a user can cause or mend; the command line prints it and exits with code 2."""


class InputError(VerifierError):
    """An argument or a data file is missing, malformed or out of range."""


class StorageError(InputError):
    """What a run finds cannot be written, as when a disk is full; what was written before is not lost."""


class ModelError(VerifierError):
    """A model file cannot be read, or holds something that cannot be verified."""


class RefusedError(ModelError):
    """A model file asks for something unsafe, such as running code, and was not opened."""


class UnsupportedOperatorError(ModelError):
    """A model uses an operator that is not in the registry."""


class SpecificationError(VerifierError):
    """A property is malformed, empty, or does not fit the model."""


class CertificateError(VerifierError):
    """A certificate cannot be written, or is refused. bound: what a leaf that is not proved reaches, if that is why."""

    def __init__(self, reason: str, bound: float | None = None) -> None:
        super().__init__(reason)
        self.bound = bound


class SolverError(VerifierError):
    """A solver failed, or answered something that cannot be trusted."""


class SolverUnavailableError(SolverError):
    """A solver is unknown or its package is not installed."""


class TrainingError(VerifierError):
    """Training cannot go on, because its loss or a gradient is no longer a number."""
