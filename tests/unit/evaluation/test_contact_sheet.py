"""Contact sheets, and the values of a sweep."""

import pytest
import torch
from PIL import Image

from instructbrush.core.editing.sweeps import labels, parse_values
from instructbrush.core.errors import EvaluationError, InstructBrushError
from instructbrush.core.evaluation.reports.contact_sheet import SheetColumn, contact_sheet


def plain(color: tuple[float, float, float], height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.tensor(color).expand(height, width, 3)


RED, GREEN, BLUE = plain((1, 0, 0)), plain((0, 1, 0)), plain((0, 0, 1))


def test_images_stand_in_their_column_and_row() -> None:
    sheet = contact_sheet([SheetColumn("T = 0", [RED, GREEN]), SheetColumn("T = 200", [BLUE, RED])], cell=64)
    below = sheet.height - 64
    assert sheet.getpixel((40, below - 40)) == (255, 0, 0)
    assert sheet.getpixel((40, below + 20)) == (0, 255, 0)
    assert sheet.getpixel((110, below - 40)) == (0, 0, 255)
    assert sheet.getpixel((110, below + 20)) == (255, 0, 0)


def test_titles_stand_above_their_columns_and_do_not_touch_images() -> None:
    plain_sheet = contact_sheet([SheetColumn("", [RED]), SheetColumn("", [RED])], cell=64)
    titled = contact_sheet([SheetColumn("", [RED]), SheetColumn("T = 400", [RED])], cell=64, title="night")

    def dark(sheet: Image.Image, box: tuple[int, int, int, int]) -> int:
        return sum(sheet.crop(box).convert("L").histogram()[:128])

    top = titled.height - 70
    line = top // 2
    assert dark(plain_sheet, (0, 0, plain_sheet.width, plain_sheet.height - 70)) == 0
    assert dark(titled, (0, 0, 70, line)) > 10, "no title"
    assert dark(titled, (0, line, 70, top)) == 0, "a label above a column without one"
    assert dark(titled, (76, line, 140, top)) > 10, "no label"


def test_long_titles_stay_in_their_columns() -> None:
    words = "a label that is much too long for a narrow column " * 3
    sheet = contact_sheet(
        [SheetColumn("", [RED]), SheetColumn(words, [RED]), SheetColumn("", [RED])], cell=64
    )
    heads = sheet.crop((0, 0, sheet.width, sheet.height - 70)).convert("L")
    assert heads.crop((0, 0, 70, heads.height)).getextrema() == (255, 255)
    assert heads.crop((146, 0, heads.width, heads.height)).getextrema() == (255, 255)


def test_rows_are_as_high_as_their_images() -> None:
    wide = plain((1, 0, 0), 20, 80)
    sheet = contact_sheet([SheetColumn("", [wide, RED])], cell=80)
    # 20 and 80 pixels, and a gap below each.
    assert sheet.getpixel((40, sheet.height - 7)) == (255, 0, 0)
    assert sheet.getpixel((40, sheet.height - 6 - 80 - 3)) == (255, 255, 255)
    assert sheet.getpixel((40, sheet.height - 6 - 80 - 6 - 10)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([], "there are none"),
        ([SheetColumn("a", [RED]), SheetColumn("b", [RED, RED])], "1 in 'a', 2 in 'b'"),
        ([SheetColumn("a", [])], "0 in 'a'"),
        ([SheetColumn("a", [RED])] * 300, "at most 16384 a side are possible"),
    ],
)
def test_rejects_sheets_that_cannot_be_drawn(columns: list[SheetColumn], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        contact_sheet(columns, cell=64)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0, 200 400", [0, 200, 400]),
        ("1000:0:-200", [1000, 800, 600, 400, 200, 0]),
        ("0:1:0.1", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("-1; 0; 0:2:1", [-1, 0, 1, 2]),
        ("5:5:1", [5]),
    ],
)
def test_reads_values_and_ranges(text: str, values: list[float]) -> None:
    assert parse_values(text) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "gives 0 values, between 1 and 100 are needed"),
        ("0, x", "'x' is not a number"),
        ("nan", "'nan' is not a number"),
        ("0:1", "'0:1' is no range. Write start:stop:step"),
        ("0:1:0", "the range '0:1:0' gives no values, or more than 100"),
        ("0:1:-1", "the range '0:1:-1' gives no values"),
        ("0:1e9:1", "or more than 100"),
    ],
)
def test_rejects_invalid_values(text: str, message: str) -> None:
    with pytest.raises(InstructBrushError, match=message):
        parse_values(text)


def test_labels_name_the_setting() -> None:
    assert labels("T", [0, 200, 0.25]) == ["T = 0", "T = 200", "T = 0.25"]
    assert labels("", [1.0]) == ["1"]
