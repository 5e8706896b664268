"""Which pictures of its folder a README shows: Markdown's and HTML's ways of writing an address."""

import pytest

from sima_hf.hub import plan_push
from sima_hf.hub.pictures import shown_pictures


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("![p](plot.png)", ["plot.png"]),
        ('![p]( images/plot.png "title") ![q](b.png)', ["images/plot.png", "b.png"]),
        ("![p](my%20plot.png)", ["my plot.png"]),
        ("![q](<my plot.png>)", ["my plot.png"]),
        ("![q](<my%20plot.png> 'title')", ["my plot.png"]),
        ("![p](gr%C3%B6%C3%9Fe.png)", ["größe.png"]),
        ("![p](plot_(1).png)", ["plot_(1).png"]),
        ("![p](plot.png?raw=true#here)", ["plot.png"]),
        ("![p](./plot.png)", ["plot.png"]),
        ("[![p](plot.png)](https://example.org/other.png)", ["plot.png"]),
        ('<img width="3" src="my plot.png"> <IMG alt="" src=\'it"s.png\'>', ["my plot.png", 'it"s.png']),
        ("![p](../plot.png) ![p](/plot.png) ![p](%2Fplot.png) ![p](a/%2E%2E/plot.png) ![p]() ![p](#x)", []),
        ("[p](plot.png) ![p] (plot.png) ![p][ref]", []),
    ],
)
def test_places(text, names):
    assert [str(name) for name in shown_pictures(text)] == names


def test_pictures_with_spaces_are_published(folder):
    for name in ("my plot.png", "another one.jpg", "not this.png"):
        (folder / name).write_bytes(b"x")
    (folder / "README.md").write_text("# Mine\n\n![p](my%20plot.png) ![q](<another one.jpg>)\n")
    plan = plan_push(folder, "org/sima-vit")
    assert {"my plot.png", "another one.jpg"} <= {file.name for file in plan.files}
    assert set(plan.left) == {"not this.png"}
