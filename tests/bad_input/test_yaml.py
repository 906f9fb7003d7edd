"""Broken, hostile and misspelt YAML: files and texts, matrices, configuration files and files named in them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import get_loader

from mhc_vision.command_line.given_settings import batch_size_is_last, given_settings
from mhc_vision.comparison.plan.matrix import load_matrix
from mhc_vision.training.options.parser import _load
from mhc_vision.yaml_files import MAX_BYTES, MAX_DEPTH, parse_yaml, read_yaml

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)

TEXTS = {
    "key-twice": ("a: 1\na: 2\n", "t: line 2, column 1: got the key 'a' a second time, expected it once"),
    "key-twice-far": ("model: {x: 1}\ndata: 2\nmodel: {y: 1}\n", "t: line 3, column 1: got the key 'model'"),
    "key-twice-nested": ("a:\n  b: 1\n  c: 2\n  b: 3\n", "t: line 4, column 3: got the key 'b'"),
    "key-twice-flow": ("a: {b: 1, b: 2}", "t: line 1, column 11: got the key 'b'"),
    "key-twice-in-list": ("- {a: 1}\n- {a: 1, a: 1}\n", "t: line 2, column 10: got the key 'a'"),
    "key-twice-quoted": ("a: 1\n'a': 2\n", "t: line 2, column 1"),
    "key-twice-number": ("1: a\n0x1: b\n", "t: line 2, column 1: got the key '0x1'"),
    "key-twice-bool": ("yes: a\ntrue: b\n", "t: line 2, column 1: got the key 'true'"),
    "key-twice-null": ("~: a\nnull: b\n", "t: line 2, column 1"),
    "key-twice-in-anchor": ("a: &x {b: 1, b: 2}\nc: *x\n", "t: line 1, column 14"),
    "key-twice-in-set": ("!!set {a, a}", "t: line 1, column 11"),
    "list-not-closed": ("a: [1, 2\n", "t: line 2, column 1: no YAML: "),
    "mapping-not-closed": ("a: {b: 1\n", "t: line 2, column 1: no YAML: "),
    "quote-not-closed": ("a: 'b\n", "no YAML: "),
    "colon-in-value": ("a: b: c", "t: line 1, column 5: no YAML: mapping values are not allowed"),
    "tab": ("a:\n\tb: 1\n", "t: line 2, column 1: no YAML: "),
    "indent": ("a:\n    b: 1\n  c: 2\n", "t: line 3, column 3: no YAML: "),
    "list-then-key": ("- a\nb: 1\n", "t: line 2, column 1: no YAML: "),
    "reserved": ("a: @b", "t: line 1, column 4: no YAML: "),
    "backtick": ("a: `b`", "t: line 1, column 4: no YAML: "),
    "percent": ("a: %b", "t: line 1, column 4: no YAML: "),
    "escape": ('a: "\\q"', "no YAML: found unknown escape character"),
    "control-character": ("a: \x01", "no YAML: "),
    "surrogate": ("a: \udcff", "t: no YAML: no text at character 4"),
    "two-documents": ("a: 1\n---\nb: 2\n", "t: line 2, column 1: no YAML: "),
    "directive": ("%YAML x\n---\na: 1\n", "t: line 1, column 7: no YAML: "),
    "alias-unknown": ("a: *b", "t: line 1, column 4: no YAML: found undefined alias"),
    "alias-of-itself": ("a: &a [*a]", "t: line 1, column 4: an alias in it stands for itself"),
    "alias-of-itself-mapping": ("&a b: &c {d: *c}", "an alias in it stands for itself"),
    "billion-laughs": (LAUGHS, "its aliases stand for "),
    "billion-laughs-merged": (LAUGHS.replace("[", "{p: ").replace("]", "}").replace(", ", ", q: "), "t: line "),
    "deep-list": ("[" * 500, f"nested {MAX_DEPTH + 1} deep, expected at most {MAX_DEPTH}"),
    "deep-mapping": ("{a: " * 5000, f"nested {MAX_DEPTH + 1} deep"),
    "deep-block": ("- " * 200 + "a", f"nested {MAX_DEPTH + 1} deep"),
    "python-tag": ("a: !!python/object/apply:os.system [ls]", "t: line 1, column 4: no YAML: could not determine"),
    "python-name": ("a: !!python/name:os.system", "no YAML: could not determine a constructor"),
    "own-tag": ("a: !foo b", "no YAML: could not determine a constructor"),
    "no-date": ("a: 2024-13-45", "t: got a value that its form or tag does not fit: month must be"),
    "no-int": ("a: !!int x", "t: got a value that its form or tag does not fit"),
    "no-bool": ("a: !!bool x", "t: got a value that its form or tag does not fit"),
    "no-date-tag": ("a: !!timestamp x", "t: got a value that its form or tag does not fit"),
    "key-is-a-list": ("? [1]\n: 2\n", "t: line 1, column 3: no YAML: found unhashable key"),
    "key-is-a-mapping": ("{{a: 1}: 2}", "no YAML: "),
    "merge-of-a-number": ("<<: 3\n", "no YAML: expected a mapping"),
}


@pytest.mark.parametrize("row", TEXTS)
def test_a_text_is_refused_with_line_and_column(row):
    text, words = TEXTS[row]
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        parse_yaml(text, "t")
    assert str(refused.value).startswith("t: ")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: 1",
        "x: &x {a: 1}\ny: {<<: *x, a: 2}",
        "a: &a [1]\nb: *a",
        "5",
        "- a\n- a",
        "a: {x: 1}\nb: {x: 1}",
        "a: 1e-3",
    ],
)
def test_what_is_sound_is_read_as_pyyaml_reads_it(text):
    assert parse_yaml(text, "t") == yaml.safe_load(text)


FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "cannot be read: No such file"),
    "no-utf-8": (b"a: \xff\xfe", "got no UTF-8 at byte 3, expected a YAML file"),
    "utf-16": ("a: 1".encode("utf-16"), "got no UTF-8 at byte 0"),
    "binary": (b"\x00\x01\x02", "no YAML: "),
    "huge": (b"# " + b"x" * MAX_BYTES, f"got more than {MAX_BYTES:,} bytes"),
    "key-twice": (b"a: 1\na: 1\n", "line 2, column 1: got the key 'a' a second time"),
}


@pytest.mark.parametrize("row", FILES)
def test_a_file_is_refused_with_its_name(tmp_path, row):
    content, words = FILES[row]
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        read_yaml(path)
    assert str(refused.value).startswith(f"{path}: ")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}: cannot be read: Is a directory")):
        read_yaml(tmp_path)


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfmodel: 1\n")
    assert read_yaml(tmp_path / "a.yaml") == {"model": 1}


# files of `train` and `finetune`: name -> content; words; message
GIVEN: dict[str, tuple[dict[str, str], list[str], str]] = {
    "config-twice": (
        {"a.yaml": "model: {lr: 1}\nmodel: {name: x}\n"},
        ["--config", "a.yaml"],
        "a.yaml: line 2, column 1",
    ),
    "config-equals": ({"a.yaml": "a: [\n"}, ["--config=a.yaml"], "a.yaml: line 2, column 1: no YAML"),
    "config-short": ({"a.yaml": "a: [\n"}, ["-c", "a.yaml"], "a.yaml: line 2, column 1: no YAML"),
    "config-second": (
        {"a.yaml": "a: 1\n", "b.yaml": "a: 1\na: 2\n"},
        ["-c", "a.yaml", "-c", "b.yaml"],
        "b.yaml: line 2",
    ),
    "config-missing": (
        {"recipe.yaml": "a: 1\n"},
        ["-c", "recpie.yaml"],
        "config: got recpie.yaml, which is no file, expected a YAML",
    ),
    "config-missing-like": ({"recipe.yaml": "a: 1\n"}, ["-c", "recpie.yaml"], "; nearest: recipe.yaml"),
    "config-folder": ({"f/a.yaml": "a: 1\n"}, ["-c", "f"], "config: got f, which is a folder, expected a YAML file"),
    "config-empty": ({"a.yaml": ""}, ["-c", "a.yaml"], "a.yaml: got nothing, expected options"),
    "config-comment": ({"a.yaml": "# nothing\n"}, ["-c", "a.yaml"], "a.yaml: got nothing, expected options"),
    "config-number": ({"a.yaml": "5\n"}, ["-c", "a.yaml"], "a.yaml: got 5, expected options"),
    "config-list": ({"a.yaml": "- model\n"}, ["-c", "a.yaml"], "a.yaml: got ['model'], expected options"),
    "config-key-alone": ({"a.yaml": "model:\n"}, ["-c", "a.yaml"], "a.yaml: got 'model:"),
    "model-number": ({"a.yaml": "model: 3\n"}, ["-c", "a.yaml"], "a.yaml: model: got 3, expected options below it"),
    "trainer-list": (
        {"a.yaml": "trainer: [1]\n"},
        ["-c", "a.yaml"],
        "a.yaml: trainer: got [1], expected options below",
    ),
    "data-number": ({"a.yaml": "data: 3\n"}, ["-c", "a.yaml"], "a.yaml: data: got 3, expected options below it"),
    "inline-twice": ({}, ["--config", "{model: {lr: 1, lr: 2}}"], "--config: line 1, column 17: got the key 'lr'"),
    "inline-broken": ({}, ["--config", "model: {lr: 1"], "--config: line 2, column 1: no YAML"),
    "data-twice": ({"d.yaml": "class_path: x\nclass_path: y\n"}, ["--data", "d.yaml"], "d.yaml: line 2, column 1"),
    "data-broken": ({"d.yaml": "class_path: [x\n"}, ["--data=d.yaml"], "d.yaml: line 2, column 1: no YAML"),
    "data-missing": ({}, ["--data", "d.yaml"], "data: got d.yaml, which is no file, expected a YAML file"),
    "model-twice": ({"m.yaml": "lr: 1\nname: x\nlr: 2\n"}, ["--model", "m.yaml"], "m.yaml: line 3, column 1"),
    "model-twice-no-suffix": ({"m": "lr: 1\nlr: 2\n"}, ["--model", "m"], "m: line 2, column 1"),
    "model-missing": ({}, ["--model", "m.yml"], "model: got m.yml, which is no file"),
    "trainer-twice": ({"t.yaml": "max_steps: 1\nmax_steps: 2\n"}, ["--trainer", "t.yaml"], "t.yaml: line 2, column 1"),
    "nested-data": (
        {"a.yaml": "data: d.yaml\n", "d.yaml": "x: 1\nx: 2\n"},
        ["-c", "a.yaml"],
        "d.yaml: line 2, column 1",
    ),
    "nested-folder": (
        {"f/a.yaml": "data: g/d.yaml\n", "f/g/d.yaml": "x: 1\nx: 2\n"},
        ["-c", "f/a.yaml"],
        "f/g/d.yaml: line 2, column 1",
    ),
    "nested-list": (
        {"a.yaml": "trainer: {callbacks: [c.yaml]}\n", "c.yaml": "x: [\n"},
        ["-c", "a.yaml"],
        "c.yaml: line 2, column 1",
    ),
    "nested-twice": (
        {"a.yaml": "data: b.yaml\n", "b.yaml": "x: c.yaml\n", "c.yaml": "y: 1\ny: 2\n"},
        ["-c", "a.yaml"],
        "c.yaml: line 2",
    ),
    "nested-loop": (
        {"a.yaml": "data: b.yaml\n", "b.yaml": "x: a.yaml\n"},
        ["-c", "a.yaml"],
        "got a.yaml, which leads back to itself",
    ),
    "callbacks-file": ({"c.yaml": "x: 1\nx: 2\n"}, ["--trainer.callbacks", "c.yaml"], "c.yaml: line 2, column 1"),
    "callbacks-append": ({"c.yaml": "x: 1\nx: 2\n"}, ["--trainer.callbacks+=c.yaml"], "c.yaml: line 2, column 1"),
    "value-twice": ({}, ["--model.model_args", "{depth: 1, depth: 2}"], "--model.model_args: line 1, column 12"),
    "value-twice-equals": ({}, ["--model.model_args={depth: 1, depth: 2}"], "--model.model_args: line 1, column 12"),
    "value-twice-in-list": ({}, ["--trainer.callbacks", "[{a: 1, a: 2}]"], "--trainer.callbacks: line 1, column 9"),
    "laughs": ({"a.yaml": LAUGHS}, ["-c", "a.yaml"], "its aliases stand for "),
}


@pytest.mark.parametrize("row", GIVEN)
def test_files_and_values_of_a_command_line_are_refused_with_their_names(tmp_path, monkeypatch, row):
    files, words, message = GIVEN[row]
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        given_settings(["fit", *words], get_loader("yaml"))


@pytest.mark.parametrize(
    "text", ["1e-3", "true", "[1, 2e-5]", "{lr: 1e-3, name: x}", "2024-01-01", "a: b: c"[:4], "{a, b}"]
)
def test_values_are_what_jsonargparse_makes_of_them(text):
    assert _load(text) == get_loader("yaml")(text)


def test_a_key_that_stands_twice_where_no_file_is_known_is_refused_too():
    with pytest.raises(ValueError, match="YAML: line 1, column 8: got the key 'a' a second time"):
        _load("{a: 1, a: 2}")


ORDERS = [
    (["-c", "total.yaml", "--data.batch_size", "4"], True),
    (["-c", "total.yaml", "--data.init_args.batch_size=4"], True),
    (["-c", "total.yaml", "-c", "batch.yaml"], True),
    (["--data.batch_size", "4", "-c", "total.yaml"], False),
    (["-c", "batch.yaml", "--data.total_batch_size", "8"], False),
    (["-c", "both.yaml"], False),
    (["-c", "both.yaml", "--data.batch_size", "4", "--data.total_batch_size", "8"], False),
    (["-c", "both.yaml", "--data.total_batch_size", "8", "--data.batch_size", "4"], True),
    (["--data", "{class_path: x, init_args: {total_batch_size: 8}}", "--data.batch_size", "4"], True),
    (["--model.lr", "1"], False),
]


@pytest.mark.parametrize(
    ("words", "expected"), ORDERS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_of_two_batch_sizes_the_later_one_is_found(tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    for name, options in {"total": "total_batch_size: 8", "batch": "batch_size: 2", "both": ""}.items():
        text = options or "total_batch_size: 8, batch_size: 2"
        Path(f"{name}.yaml").write_text(f"data: {{class_path: x, init_args: {{{text}}}}}\n")
    assert batch_size_is_last(given_settings(["fit", *words], get_loader("yaml"))) is expected


MATRIX: dict[str, Any] = {
    "name": "tiny",
    "recipes": {"digits": ["recipe.yaml"]},
    "arms": {"plain": ["plain.yaml"], "mhc": ["mhc.yaml"]},
    "seeds": [0],
    "gpus": 0,
}
MATRICES: dict[str, tuple[dict[str, Any], str]] = {
    "same-arms": ({"arms": {"a": ["mhc.yaml"], "b": ["mhc.yaml"]}}, "arms: got 'a' and 'b' equal on digits"),
    "same-arms-other-file": (
        {"arms": {"a": ["mhc.yaml"], "b": ["copy.yaml"]}},
        "arms: got 'a' and 'b' equal on digits",
    ),
    "same-arms-as-option": (
        {"arms": {"a": ["mhc.yaml"], "b": {"set": {"model.connection": "mhc"}}}},
        "arms: got 'a' and 'b' equal on",
    ),
    "same-arms-overridden": (
        {"arms": {"a": ["mhc.yaml"], "b": {"config": ["plain.yaml", "mhc.yaml"]}}},
        "arms: got 'a' and 'b' equal on",
    ),
    "same-as-the-recipe": (
        {"arms": {"a": {"set": {"model.lr": 1}}, "b": {"set": {}}}},
        "arms: got 'a' and 'b' equal on digits",
    ),
    "same-recipes": (
        {"recipes": {"a": ["recipe.yaml"], "b": ["recipe.yaml"]}},
        "tasks: got 'a' and 'b' with equal settings",
    ),
    "same-datasets": (
        {"datasets": {"a": {"set": {"data.root": "x"}}, "b": {"set": {"data.root": "x"}}}},
        "tasks: got 'digits-a' and 'digits-b'",
    ),
    "key": ({"recipies": {}}, "matrix: got the key 'recipies', expected one of name, command, recipes"),
    "key-like": ({"recipies": {}}, "; nearest: recipes"),
    "settings-key": (
        {"arms": {"a": {"confg": []}}},
        "arms.a: got the key 'confg', expected one of config, set; nearest: config",
    ),
    "command": ({"command": "fintune"}, "command: got 'fintune', expected one of train, finetune; nearest: finetune"),
    "baseline": ({"baseline": "plian"}, "baseline: got 'plian', expected one of the arms: mhc, plain; nearest: plain"),
    "config-twice": (
        {"arms": {"a": ["twice.yaml"]}},
        "twice.yaml: line 2, column 1: got the key 'model' a second time",
    ),
    "config-list": ({"arms": {"a": ["list.yaml"]}}, "list.yaml: got ['model'], expected a mapping"),
}


@pytest.mark.parametrize("row", MATRICES)
def test_a_matrix_is_refused_in_words(tmp_path, monkeypatch, row):
    change, message = MATRICES[row]
    monkeypatch.chdir(tmp_path)
    files = {
        "recipe.yaml": "model: {name: test_vit, lr: 1}\n",
        "plain.yaml": "model: {connection: null}\n",
        "mhc.yaml": "model: {connection: mhc}\n",
        "copy.yaml": "# the same\nmodel:\n  connection: mhc\n",
        "twice.yaml": "model: {lr: 1}\nmodel: {connection: mhc}\n",
        "list.yaml": "- model\n",
        "matrix.yaml": yaml.safe_dump({**MATRIX, **change}),
    }
    for name, text in files.items():
        Path(name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        load_matrix(Path("matrix.yaml"))
    assert str(refused.value).startswith("matrix.yaml: ")


def test_what_is_given_again_in_a_matrix_comes_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("model: {name: test_vit}\n")
    common = {"data.batch_size": 8, "data.total_batch_size": 64}
    Path("matrix.yaml").write_text(yaml.safe_dump({**MATRIX, "arms": {"a": ["recipe.yaml"]}, "set": common}))
    words = load_matrix(Path("matrix.yaml"), {"data.batch_size": 4}).cells[0].words(tmp_path)
    assert words.index("--data.batch_size=4") > words.index("--data.total_batch_size=64")
