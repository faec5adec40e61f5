"""The base of every section of an experiment file: immutable, and no unknown key is ever ignored."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section whose keys are all known and whose values are checked when the file is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
