import json
from typing import Any

import pytest
import timm
import torch

from mhc_vision.analysis.analysis_report import write_analysis
from mhc_vision.analysis.measure_model import measure_model
from mhc_vision.atomic_files import check_new_directory


def record(name: str, num_classes: int = 3, depth: int = 1, **options: Any) -> dict[str, Any]:
    model = timm.create_model(name, img_size=32, depth=depth, **options).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if ".connection" in parameter_name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    batches = [(torch.randn(2 * num_classes, 3, 32, 32), torch.arange(2 * num_classes) % num_classes)]
    measured = measure_model(model, batches, [f"class {index}" for index in range(num_classes)])
    texts = {"source": f"{name} <&>", "data": "noise", "command": ["mhc-vision", "analyze"], "versions": {"torch": "2"}}
    return {**measured, **texts}


ALWAYS = {"gains", "connection_matrix", "similarity", "streams"}


@pytest.mark.parametrize(
    ("name", "options", "figures"),
    [
        ("test_vit", {}, ALWAYS),
        ("test_vit_shc", {"num_streams": 2}, ALWAYS | {"travel", "maps", "memory"}),
        ("test_vit_dhc", {"num_streams": 8}, ALWAYS | {"travel", "maps", "memory", "coefficients", "classes"}),
        ("test_vit_mhc", {"depth": 3}, ALWAYS | {"travel", "maps", "memory", "sinkhorn", "coefficients", "classes"}),
        ("test_vit_mhc", {"num_streams": 1}, ALWAYS | {"travel", "maps", "sinkhorn", "coefficients", "classes"}),
        ("test_vit_mhc", {"constraint": "identity"}, ALWAYS | {"travel", "maps", "memory", "coefficients", "classes"}),
    ],
)
def test_every_kind_of_model_gets_the_figures_that_it_has(name, options, figures, tmp_path):
    report = write_analysis(record(name, **options), tmp_path / "out")
    files = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert files == {f"{figure}{suffix}" for figure in figures for suffix in (".png", ".svg")}
    text = report.read_text()
    assert text.count('<img src="data:image/svg+xml;base64,') == len(figures)
    assert f"Analysis of {name} &lt;&amp;&gt;" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["analysis.json", "figures", "report.html"]
    numbers = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert len(numbers["gains"]["forward"]) == numbers["model"]["num_branches"]


def test_figures_name_what_they_show_with_units(tmp_path):
    write_analysis(record("test_vit_mhc", num_classes=20), tmp_path / "out")
    words = {
        "gains": (
            "Amax gain of res (factor)",
            "max over tokens of |log column sum|",
            "branch (even: attention, odd: MLP)",
        ),
        "sinkhorn": ("Sinkhorn-Knopp iterations", "model: 20"),
        "travel": ("mean absolute change since the start", "pre", "post", "res"),
        "maps": ("from stream", "to stream", "change of the weight (no unit)"),
        "connection_matrix": ("output of branch (emb.: input embedding)", "input of branch (output: read-out)"),
        "similarity": ("cosine with the input of the branch before", "5-95 % of tokens"),
        "streams": ("L2 norm, mean over tokens", "effective rank of the streams"),
        "coefficients": ("Standard deviation over images (no unit)",),
        "classes": ("coefficient, mean over an image's tokens", "class 2", "class (first 16 of 20)"),
    }
    for name, texts in words.items():
        svg = (tmp_path / "out" / "figures" / f"{name}.svg").read_text()
        for text in texts:
            assert text in svg, (name, text)


def test_a_directory_in_use_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"out: .* is there already"):
        write_analysis(record("test_vit"), tmp_path)
    with pytest.raises(ValueError, match=r"out: .* is there already"):
        check_new_directory(tmp_path / "notes.txt", "out")
    with pytest.raises(ValueError, match=r"cannot be made in .*notes\.txt"):
        check_new_directory(tmp_path / "notes.txt" / "out", "out")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_directory_is_as_good_as_a_new_one(tmp_path):
    (tmp_path / "out").mkdir()
    assert write_analysis(record("test_vit"), tmp_path / "out").is_file()
