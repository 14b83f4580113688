"""Data files of every form become the same rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from pixelprune.training import load_rows
from pixelprune.training.collator import opened_row
from pixelprune.training.rows import as_messages

IMAGE, TOTAL, ANSWER = {"type": "image"}, {"type": "text", "text": "Total?"}, {"type": "text", "text": "12"}
USER, ASSISTANT = {"role": "user"}, {"role": "assistant"}
FORMS = {
    "conversations": {
        "conversations": [{"from": "human", "value": "<image>\nTotal?"}, {"from": "gpt", "value": "12"}],
        "images": ["a.png"],
    },
    "messages": {
        "messages": [{**USER, "content": [IMAGE, TOTAL]}, {**ASSISTANT, "content": [ANSWER]}],
        "images": ["a.png"],
    },
    "messages of texts": {
        "messages": [{**USER, "content": "Total?"}, {**ASSISTANT, "content": "12"}],
        "images": ["a.png"],
    },
    "messages with a placeholder": {
        "messages": [{**USER, "content": "<image>Total?"}, {**ASSISTANT, "content": "12"}],
        "images": ["a.png"],
    },
    "messages that bring their image": {
        "messages": [
            {**USER, "content": [{**IMAGE, "image": "a.png"}, TOTAL]},
            {**ASSISTANT, "content": "12"},
        ],
    },
    "prompt and completion": {
        "prompt": [{**USER, "content": [IMAGE, TOTAL]}],
        "completion": [{**ASSISTANT, "content": "12"}],
        "image": "a.png",
    },
    "prompt and completion of texts": {"prompt": "Total?", "completion": "12", "images": ["a.png"]},
}


def written(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def bare(messages: Any) -> Any:
    """Without the keys that tables add."""
    return [
        {**message, "content": [{k: v for k, v in part.items() if v is not None} for part in message["content"]]}
        for message in messages
    ]


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str, tmp_path: Path) -> None:
    (row,) = load_rows(written(tmp_path, FORMS[form]))
    assert bare(row["prompt"]) == [{**USER, "content": [IMAGE, TOTAL]}]
    assert bare(row["completion"]) == [{**ASSISTANT, "content": [ANSWER]}]
    assert (row["images"], row["row"], row["problem"]) == ([str(tmp_path / "a.png")], 1, None)


def test_mixed_forms_of_several_turns(tmp_path: Path) -> None:
    turns = [("human", "Compare <image> with <image>."), ("gpt", "Same."), ("human", "Sure?"), ("gpt", "Yes.")]
    long = {"conversations": [{"from": who, "value": what} for who, what in turns], "images": ["a.png", "b.png"]}
    first, second = load_rows(written(tmp_path, long, FORMS["messages"]), image_folder="/pages")
    assert [message["role"] for message in first["messages"]] == ["user", "assistant"] * 2
    texts = [part["text"] or "image" for part in first["messages"][0]["content"]]
    assert texts == ["Compare ", "image", " with ", "image", "."]
    assert bare(second["messages"]) == FORMS["messages"]["messages"]
    assert first["images"] == ["/pages/a.png", "/pages/b.png"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "not valid JSON"),
        ([1], "must be a JSON object, got list"),
        ({"text": "x"}, "must have 'messages', 'prompt' and 'completion', or 'conversations', got 'text'"),
        ({**FORMS["messages"], "images": [3]}, "images must be a list of paths"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, r"conversations need 'from' \(human, gpt"),
        ({"conversations": None}, "conversations need 'from'"),
        ({"messages": [{"role": "user"}]}, "messages need 'role' and 'content'"),
        ({"messages": [{**USER, "content": [{"type": "video"}]}]}, "of type 'text' or 'image', got 'video'"),
        ({"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": " "}]}, "an answer is empty"),
        ({"prompt": "x", "completion": "", "images": ["a.png"]}, "an answer is empty"),
        ({"messages": [{**USER, "content": "x"}], "images": ["a.png"]}, "it has no answer"),
        ({**FORMS["messages that bring their image"], "images": ["b.png"]}, "images are both in"),
    ],
)
def test_problems_stay_with_their_row(row: Any, problem: str, tmp_path: Path) -> None:
    found = load_rows(written(tmp_path, FORMS["messages"], row, "", FORMS["conversations"]))
    assert found["row"][:] == [1, 2, 4]
    assert [bool(text) for text in found["problem"]] == [False, True, False]
    assert re.search(problem, found["problem"][1])


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("rows.jsonl", "", "data has no rows"),
        ("rows.json", "[1,", "is not valid JSON"),
        ("rows.txt", "x", "cannot be read as a data set"),
    ],
)
def test_files_that_cannot_be_read(name: str, text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=problem):
        load_rows(str(tmp_path / name))


def test_no_row_has_an_image(tmp_path: Path) -> None:
    """As where the column of images is misspelt."""
    row = {**FORMS["messages"], "pictures": ["a.png"]}
    del row["images"]
    with pytest.raises(ValueError, match="data has no images; list the paths of each row under 'images'"):
        load_rows(written(tmp_path, row, row))


def test_folder_of_images_beside_a_file_of_rows(pages: Path) -> None:
    with pytest.raises(ValueError, match=r"must have 'messages', .*, got image; for a folder of .* pass the file"):
        load_rows(str(pages))


def test_as_messages(tmp_path: Path) -> None:
    rows = as_messages(load_rows(written(tmp_path, FORMS["conversations"])))
    assert bare(rows[0]["messages"]) == FORMS["messages"]["messages"]
    assert as_messages(rows) is rows


def test_addresses_are_named_as_they_are(tmp_path: Path) -> None:
    rows = load_rows(written(tmp_path, {**FORMS["messages"], "images": ["https://example.com/a.png"]}))
    with pytest.raises(ValueError, match=r"^row 1: https://example.com/a.png: addresses are not fetched; download"):
        opened_row(rows[0])
    with pytest.raises(ValueError, match=r"data 'https://a.b/c.jsonl' is an address, which is not fetched; download"):
        load_rows("https://a.b/c.jsonl")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.jsonl' cannot be read: No such file"):
        load_rows(str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("column", ["images", "image"])
def test_a_data_set_that_holds_its_images(column: str, tmp_path: Path, pages: Path) -> None:
    """Bytes are decoded only when a batch is made; one broken image is no problem of the others."""
    picture = (pages / "0.png").read_bytes()
    features: Any = datasets.List(datasets.Image()) if column == "images" else datasets.Image()
    given = [{"bytes": picture, "path": None}, {"bytes": picture[:100], "path": None}]
    said = [[{"from": "human", "value": "<image>Total?"}, {"from": "gpt", "value": "12"}]] * 2
    made = datasets.Dataset.from_dict(
        {"conversations": said, column: [[one] for one in given] if column == "images" else given},
        features=datasets.Features(
            {
                "conversations": datasets.List({"from": datasets.Value("string"), "value": datasets.Value("string")}),
                column: features,
            }
        ),
    )
    made.save_to_disk(tmp_path / "set")
    rows = load_rows(str(tmp_path / "set"))
    assert opened_row(rows[0])["images"][0].size == Image.open(pages / "0.png").size
    with pytest.raises(ValueError, match="row 2: "):
        opened_row(rows[1])
    assert bare(rows[0]["messages"])[0]["content"] == [IMAGE, TOTAL]
