"""Classes that are codes: the names that a file beside the boxes has for them."""

import pytest

from frcnn_jax.data.formats.csv_files.class_names import code_renames, coded_classes
from tests.data.formats.written import write_text

BOAT, FACE = "/m/019jd", "/m/0dzct"


def test_open_images(tmp_path):
    write_text(tmp_path / "a/detections.csv", f"ImageID,LabelName\na,{BOAT}\n")
    write_text(tmp_path / "train/metadata/classes.csv", f"LabelName,DisplayName\n{FACE},Human face\n/m/01,Tortoise\n")
    write_text(tmp_path / "z/classes.csv", f"{BOAT},Vessel\n")
    assert code_renames(tmp_path, [BOAT, FACE, "cat"]) == [f"{FACE}=Human face"]
    assert coded_classes(tmp_path, [BOAT, FACE, "cat"]) == [
        f"classes are codes, which train/metadata/classes.csv names ({FACE} is Human face): they get these names by "
        f"--data.rename '{FACE}=Human face'"
    ]


def test_too_many_for_a_command(tmp_path):
    codes = [f"/m/{number}" for number in range(13)]
    write_text(tmp_path / "class-descriptions.csv", "".join(f"{code},Name {code}\n" for code in codes))
    assert len(code_renames(tmp_path, codes[1:])) == 12
    assert code_renames(tmp_path, codes) == []
    (text,) = coded_classes(tmp_path, codes)
    assert text.endswith(
        "/m/2 is Name /m/2 and 10 more): they get these names by data.rename = CODE=NAME for each, in a config"
    )


@pytest.mark.parametrize("text", ["", f"{BOAT}\n", f"{BOAT},\n", f"{BOAT},a,b\n", "x\0\n", f'{BOAT},"{"a" * 200_000}'])
def test_files_without_names(tmp_path, text):
    write_text(tmp_path / "classes.csv", text)
    assert coded_classes(tmp_path, [BOAT]) == []


def test_no_file_is_read_for_names(tmp_path):
    assert coded_classes(tmp_path / "missing", ["cat"]) == []
