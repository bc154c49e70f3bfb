"""The README's table of settings is printed by the code, so that it cannot lie."""

from pathlib import Path

from tesp_api import settings

README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_settings_table_is_the_one_the_code_prints() -> None:
    _, begin, rest = README.read_text(encoding="utf-8").partition("<!-- settings -->\n")
    table, end, _ = rest.partition("\n<!-- /settings -->")
    assert begin, "README.md has no <!-- settings --> marker"
    assert end, "README.md has no <!-- /settings --> marker"
    assert table.strip() == settings.table(), (
        "`tesp_api.settings.table()` prints what belongs there"
    )
