"""The limits of CONTRIBUTING on the size of files and folders."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "jepa_ray"
MAX_LINES, MAX_FILES = 450, 14


def test_no_file_is_too_long_to_read_in_a_sitting() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert len(lengths) > 100
    assert {str(path): lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_folder_has_too_many_files() -> None:
    """`data/formats/` has one file per format, and no limit."""
    folders = {path for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__"} | {PACKAGE}
    counts = {folder: sum(path.is_file() for path in folder.iterdir()) for folder in folders}
    del counts[PACKAGE / "data" / "formats"]
    assert {str(folder): count for folder, count in counts.items() if count > MAX_FILES} == {}
