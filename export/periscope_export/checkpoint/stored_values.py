"""Values that a checkpoint stores about itself: where one stands in its JSON files, and which place counts.

A source is `file:path.to.field`, or `image_processor:path.to.field` and `video_processor:...` for what a processor
stores, whichever file that is in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

# A JSON file of the checkpoint by name, or None.
JsonFile = Callable[[str], dict[str, Any] | None]

# The places of a processor's settings. The first section that is there counts, the other not at all, as in transformers
# 5, which writes the former and leaves an older file of the other kind as it was.
_PROCESSORS = {
    "image_processor": ("processor_config.json:image_processor", "preprocessor_config.json"),
    "video_processor": ("processor_config.json:video_processor", "video_preprocessor_config.json"),
}


class Stored(NamedTuple):
    """A value and the place in the checkpoint's files that it was found at."""

    place: str
    value: Any


def stored(sources: Iterable[str], read_json: JsonFile) -> Stored | None:
    """Return the value at the first of some places that has one, or None."""
    return _first((places[0] for source in sources if (places := _places(source, read_json))), read_json)


def outdated(sources: Iterable[str], read_json: JsonFile) -> str | None:
    """Return a line about a value that does not count and differs from the one that does, or None."""
    sources = list(sources)
    ignored = _first((place for source in sources for place in _places(source, read_json)[1:]), read_json)
    counting = stored(sources, read_json)
    if ignored is None or (counting is not None and counting.value == ignored.value):
        return None
    instead = (
        "processor_config.json, which comes first, has none"
        if counting is None
        else (f"{counting.place}, which comes first, is {counting.value!r}")
    )
    return f"{ignored.place} is {ignored.value!r} and does not count, as in transformers 5: {instead}"


def at(value: Any, field: str) -> Any:
    """Return the value at a dotted path, or None where there is none; all of it for an empty path."""
    for key in field.split(".") if field else ():
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _first(places: Iterable[str], read_json: JsonFile) -> Stored | None:
    found = (Stored(place, _look_up(place, read_json)) for place in places)
    return next((one for one in found if one.value is not None), None)


def _places(source: str, read_json: JsonFile) -> list[str]:
    """Return where in files a source stands, for a processor's the place that counts first."""
    section, _, field = source.partition(":")
    if section not in _PROCESSORS:
        return [source]
    present = [place for place in _PROCESSORS[section] if _look_up(place, read_json) is not None]
    return [f"{place}{'.' if ':' in place else ':'}{field}" for place in present]


def _look_up(place: str, read_json: JsonFile) -> Any:
    file, _, field = place.partition(":")
    return at(read_json(file), field)
