"""Configuration files are read as PostgreSQL reads them, and edited without touching what was not meant."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrecall.errors import ConfSyntax
from pgrecall.postgres.conffile import ConfFile, parse_bool, parse_int, quote, read_configuration, unquote
from pgrecall.postgres.scratch import ScratchServer

TRICKY = rb"""# a comment
Port = 5433	# tab before a comment
shared_buffers 16MB
application_name='it''s \'quoted\' # not a comment'   # but this is
search_path	=	'"$user", public'
my_app.setting = 'back\\slash \101\n'
log_line_prefix='%m [%p] '
include 'more.conf'

   work_mem   =   4MB
work_mem = 5MB"""


def test_names_values_comments_and_escapes_are_read_like_the_server_does() -> None:
    conf = ConfFile.parse(TRICKY)
    assert conf.find("port") == b"5433"
    assert conf.find("shared_buffers") == b"16MB"
    assert conf.find("application_name") == b"it's 'quoted' # not a comment"
    assert conf.find("my_app.setting") == b"back\\slash A\n"
    assert conf.find("log_line_prefix") == b"%m [%p] "
    assert conf.find("WORK_MEM") == b"5MB"
    assert conf.find("max_connections") is None
    assert [line.value for line in conf.lines if line.is_include] == [b"more.conf"]


def test_a_file_that_is_not_edited_comes_back_byte_for_byte() -> None:
    for data in (TRICKY, b"", b"\n", b"a = 1", b"a = 1\r\n# \xff\xfe\n", b"\xef\xbb\xbfa = 1\n"):
        assert ConfFile.parse(data).to_bytes() == data


@given(st.binary(max_size=80).filter(lambda value: b"\0" not in value))
def test_a_quoted_value_is_read_back_as_it_was(value: bytes) -> None:
    assert unquote(quote(value)) == value
    assert ConfFile.parse(b"name = " + quote(value) + b" # end\n").find("name") == value


@pytest.mark.parametrize("line", [b"port = = 3", b"port", b"= 3", b"port = 'open", b"port = 1 2", b"9lives = 1"])
def test_a_line_that_the_server_refuses_is_named_with_its_number(line: bytes) -> None:
    with pytest.raises(ConfSyntax, match=r"postgresql\.conf line 2"):
        ConfFile.parse(b"a = 1\n" + line + b"\n")


def test_settings_are_commented_out_with_a_note_and_the_rest_stays() -> None:
    conf = ConfFile.parse(b"a = 1\nB = 'x'  # why\n#b = 2\nc = 3")
    edited = conf.comment_out(lambda name: name == "b", note="gone")
    assert edited.to_bytes() == b"a = 1\n# B = 'x'  # why  # gone\n#b = 2\nc = 3"
    assert edited.find("b") is None


def test_appended_lines_win_also_after_a_last_line_without_an_end() -> None:
    edited = ConfFile.parse(b"a = 1\na = 2").append([b"a = 3"])
    assert edited.to_bytes() == b"a = 1\na = 2\na = 3\n"
    assert edited.find("a") == b"3"


def test_includes_are_followed_in_order_and_auto_conf_wins(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "postgresql.conf").write_text(
        "a = main\ninclude 'one.conf'\ninclude_dir = 'conf.d'\n"
        "include_if_exists 'never.conf'\ninclude 'lost.conf'\nc = main\n"
    )
    (tmp_path / "one.conf").write_text("a = one\nb = one\n")
    (tmp_path / "conf.d" / "20.conf").write_text("b = twenty\nd = twenty\n")
    (tmp_path / "conf.d" / "10.conf").write_text("b = ten\n")
    (tmp_path / "conf.d" / ".hidden.conf").write_text("b = hidden\n")
    (tmp_path / "conf.d" / "note.txt").write_text("b = text\n")
    (tmp_path / "postgresql.auto.conf").write_text("d = 'auto'\n")
    tree = read_configuration(tmp_path)
    assert [tree.value(name) for name in "abcd"] == ["one", "twenty", "main", "auto"]
    assert tree.value("e", "default") == "default"
    assert [(each.value, each.number) for each in tree.missing] == [(b"lost.conf", 5)]
    assert [path.name for path in tree.files] == [
        "postgresql.conf",
        "one.conf",
        "10.conf",
        "20.conf",
        "postgresql.auto.conf",
    ]


def test_a_file_that_includes_itself_is_refused_not_followed_for_ever(tmp_path: Path) -> None:
    (tmp_path / "postgresql.conf").write_text("include 'postgresql.conf'\n")
    with pytest.raises(ConfSyntax, match="nested deeper"):
        read_configuration(tmp_path)


def test_booleans_and_integers_are_read_like_the_server_does() -> None:
    assert [parse_bool(word) for word in (b"on", b"TRUE", b"y", b"1")] == [True] * 4
    assert [parse_bool(word) for word in (b"off", b"f", b"No", b"0")] == [False] * 4
    assert [parse_bool(word) for word in (b"", b"o", b"always")] == [None] * 3
    assert [parse_int(word) for word in (b"100", b"0x64", b"1e2", b" 100 ", b"99.6")] == [100] * 5
    assert parse_int(b"many") is None


def test_the_server_reads_every_value_as_we_do(pg: ScratchServer) -> None:
    values = {
        "app.plain": b"bare-word_1:2/3.4",
        "app.quoted": b"it's \\ back # slash",
        "app.spaces": b"  two  ",
        "app.number": b"-12.5",
        "app.controls": b"tab\tbell\x07",
    }
    lines = [name.encode() + b" = " + quote(value) for name, value in values.items()]
    lines[0] = b"app.plain bare-word_1:2/3.4 # unquoted"
    (pg.pgdata / "postgresql.conf").open("ab").write(b"\n" + b"\n".join(lines) + b"\n")
    pg.execute("select pg_reload_conf()")
    pg.restart()
    conf = read_configuration(pg.pgdata)
    for name, value in values.items():
        assert pg.value("select current_setting(%s)", (name,)).encode() == value
        found = conf.effective(name)
        assert found is not None
        assert found.value == value
