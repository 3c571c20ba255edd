"""Errors that are the user's to mend: one sentence that names the item, then what to do next."""

from __future__ import annotations


class UserError(Exception):
    """A failure that a person can mend. The command line prints it without a traceback."""

    exit_code = 1


class ConfigError(UserError):
    """A wrong option, value or argument."""

    exit_code = 2


class DataError(UserError):
    """A data set, image or annotation that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint or exported model that cannot be read or does not fit."""


class FetchError(UserError):
    """Something that is not on this machine and could not be fetched, or came as something else."""


class StallError(FetchError):
    """A network that swallows what is sent, so that another fetch would be waited for as long."""
