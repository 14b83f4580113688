"""Data files to the rows that TRL takes: `prompt` and `completion`, or `messages`, and `images`.

Images stay paths, or the bytes that the data set holds, until a batch is made of them: a broken image
is then a problem of its row, not of the file that lists it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from pixelprune.images.errors import is_address

PLACEHOLDER = "<image>"

_ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
_SHAPES = "'messages', 'prompt' and 'completion', or 'conversations'"


def load_rows(path: str, image_folder: str | None = None, split: str = "train") -> datasets.Dataset:
    """Read training data.

    Args:
        path: a JSON Lines file, one row per line; or what `datasets.load_dataset` or `load_from_disk`
            knows: a name, or a folder.
        image_folder: where relative paths of images start; by default the folder of the file.
        split: of a data set that is not such a file.

    Returns:
        Rows with `images` (paths, or dicts of bytes), `row` (line or place, counted from 1), and
        `prompt` and `completion` where each row is one exchange, `messages` otherwise. Rows of the
        ShareGPT form (`conversations` of `from` and `value`, with `<image>` where each of `images`
        belongs) are turned into these. Rows of an unknown form have a `problem`, a sentence, which
        makes a trainer stop or skip them.

    Raises:
        ValueError: nothing can be read there, or no row has what training needs.

    Example:
        >>> import tempfile
        >>> row = {"conversations": [{"from": "human", "value": "<image>Total?"}, {"from": "gpt", "value": "12"}]}
        >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        ...     _ = file.write(json.dumps({**row, "images": ["a.png"]})), file.flush()
        ...     load_rows(file.name, "pages")[0]["images"]
        ['pages/a.png']
    """
    if Path(path).suffix in (".jsonl", ".json") and not Path(path).is_dir():
        if is_address(path):
            raise ValueError(f"data {path!r} is an address, which is not fetched; download the file and pass its path")
        folder = Path(path).parent if image_folder is None else Path(image_folder)
        return _arranged([_checked(row, number, folder) for number, row in _lines(Path(path))])
    found = _stored(path, split)
    columns = set(found.column_names)
    if not (columns & {"messages", "conversations"} or columns >= {"prompt", "completion"}):
        raise ValueError(
            f"data {path!r} must have {_SHAPES}, got {', '.join(sorted(columns))}; for a folder of images with a file "
            "of rows, pass the file"
        )
    # Decoded when a batch is made: a broken image is then a problem of its row.
    if "images" in found.column_names:
        found = found.cast_column("images", datasets.List(datasets.Image(decode=False)))
    if "image" in found.column_names:
        found = found.cast_column("image", datasets.Image(decode=False))
    found = found.add_column("row", list(range(1, len(found) + 1)))
    if "conversations" in found.column_names:
        found = found.map(_from_sharegpt, remove_columns=["conversations"])
    return found


def as_messages(rows: datasets.Dataset) -> datasets.Dataset:
    """Rows of `load_rows` as `messages`, whichever of the two forms they have."""
    if "messages" in rows.column_names:
        return rows
    return rows.map(
        lambda row: {"messages": [*row["prompt"], *row["completion"]]}, remove_columns=["prompt", "completion"]
    )


def _stored(path: str, split: str) -> datasets.Dataset:
    try:
        if (Path(path) / "state.json").exists() or (Path(path) / "dataset_dict.json").exists():
            found = datasets.load_from_disk(path)
            return found[split] if isinstance(found, datasets.DatasetDict) else found
        return datasets.load_dataset(path, split=split)
    except Exception as error:  # readers of many formats raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"data {path!r} cannot be read as a data set: {reason}") from None


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and value of each row; a line that is not valid JSON is a ValueError in place of its value."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"data {str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"data {str(path)!r} is not valid UTF-8") from None
    if path.suffix == ".json" and text.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(text), 1)
        except json.JSONDecodeError as error:
            raise ValueError(f"data {str(path)!r} is not valid JSON: {error}") from None
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                yield number, ValueError(f"not valid JSON: {error}")


def _checked(row: Any, number: int, folder: Path) -> dict[str, Any]:
    try:
        if isinstance(row, ValueError):
            raise row
        messages, images = _read(row)
        _check_answers(messages)
    except ValueError as error:
        return {"messages": [], "images": [], "row": number, "problem": str(error)}
    # An address stays as it is, so that it is named when it is refused.
    placed = [image if is_address(image) else str(folder / image) for image in images]
    return {"messages": messages, "images": placed, "row": number, "problem": None}


def _from_sharegpt(row: dict[str, Any]) -> dict[str, Any]:
    try:
        messages = _of_conversations(row["conversations"])
        _check_answers(messages)
        return {"messages": messages, "problem": None}
    except ValueError as error:
        return {"messages": [], "problem": str(error)}


def _read(row: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The messages of a row of any form, with lists of parts as contents, and its images."""
    if not isinstance(row, dict):
        raise ValueError(f"must be a JSON object, got {type(row).__name__}")
    images = row.get("images", row.get("image")) or []
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError(f"images must be a list of paths, got {images!r}")
    if "conversations" in row:
        return _of_conversations(row["conversations"]), images
    if "messages" in row:
        return _of_messages(row["messages"], images)
    if "prompt" in row and "completion" in row:
        return _of_messages(_said("user", row["prompt"]) + _said("assistant", row["completion"]), images)
    raise ValueError(f"must have {_SHAPES}, got {', '.join(map(repr, row)) or 'nothing'}")


def _said(role: str, what: Any) -> list[Any]:
    return [{"role": role, "content": what}] if isinstance(what, str) else list(what or [])


def _of_conversations(turns: Any) -> list[dict[str, Any]]:
    messages = []
    for turn in turns if isinstance(turns, list) else [turns]:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str) or turn.get("from") not in _ROLES:
            raise ValueError(f"conversations need 'from' ({', '.join(_ROLES)}) and a text 'value', got {turn!r}")
        messages.append({"role": _ROLES[turn["from"]], "content": _split(turn["value"])})
    return messages


def _of_messages(messages: Any, images: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Parts may hold their image; where all contents are texts, images come before the first question."""
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages
    ):
        raise ValueError(f"messages need 'role' and 'content', got {messages!r}")
    texts = [message["content"] for message in messages if isinstance(message["content"], str)]
    first = len(images) if len(texts) == len(messages) and not any(PLACEHOLDER in text for text in texts) else 0
    result, brought = [], []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            parts = _split(content)
            if first and message["role"] == "user":
                parts, first = [_part("image")] * first + parts, 0
        else:
            parts = [_part(part.get("type"), part.get("text")) for part in content]
            brought += [part["image"].removeprefix("file://") for part in content if isinstance(part.get("image"), str)]
        result.append({"role": message["role"], "content": parts})
    if images and brought:
        raise ValueError("images are both in 'images' and in the messages; keep one of the two")
    return result, images or brought


def _check_answers(messages: list[dict[str, Any]]) -> None:
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers or not all(any((part["text"] or "").strip() for part in answer) for answer in answers):
        raise ValueError("an answer is empty" if answers else "it has no answer")


def _part(kind: Any, text: str | None = None) -> dict[str, Any]:
    if kind not in ("text", "image"):
        raise ValueError(f"a part of a message must be of type 'text' or 'image', got {kind!r}")
    return {"type": kind, "text": text}


def _split(text: str) -> list[dict[str, Any]]:
    """Parts of a text in which `<image>` stands for an image."""
    parts: list[dict[str, Any]] = []
    for place, piece in enumerate(text.split(PLACEHOLDER)):
        if place:
            parts.append(_part("image"))
        if piece.strip():
            parts.append(_part("text", piece.strip("\n")))
    return parts


def _arranged(rows: list[dict[str, Any]]) -> datasets.Dataset:
    """`prompt` and `completion` where all good rows are one exchange: any chat template can do those."""
    good = [[message["role"] for message in row["messages"]] for row in rows if row["problem"] is None]
    if not rows:
        raise ValueError("data has no rows")
    if good and not any(row["images"] for row in rows):
        raise ValueError("data has no images; list the paths of each row under 'images'")
    if all(roles.count("assistant") == 1 and roles[-1] == "assistant" for roles in good):
        for row in rows:
            messages = row.pop("messages")
            row["prompt"], row["completion"] = messages[:-1], messages[-1:]
    return datasets.Dataset.from_list(rows)
