"""Settings: what the built-in presets hold, and what a user may write."""

import pytest
from pydantic import ValidationError

from neonet_core.errors import NeoNetError
from neonet_core.generation.autoencoder import build_autoencoder
from neonet_core.presets import load_preset, parse_preset, preset_names
from neonet_core.segmentation.networks import size_multiple


def bad(call, *args):
    with pytest.raises(NeoNetError) as caught:
        call(*args)
    assert caught.value.code == "BAD_PRESET"
    return str(caught.value)


def test_the_presets_of_the_design_are_there():
    assert {"paper", "neonet", "smoke", "tiny", "demo"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_built_in_preset_is_complete_and_consistent(name):
    preset = load_preset(name)
    assert preset.name == name and preset.description
    assert parse_preset(preset.model_dump(mode="json")) == preset  # as it comes back from a run folder or a bundle
    assert preset.protocol == ("paper" if name == "paper" else "rigorous")  # DESIGN, section 5
    multiple = size_multiple(preset.seg.network, preset.seg.channels)
    assert all(edge % multiple == 0 for edge in preset.seg.patch_size)
    assert all(edge % 4 == 0 for edge in preset.crop.size), "factor 4 of the latent map"
    if name != "paper":
        assert preset.crop.component == "largest"


@pytest.mark.parametrize("name", ["smoke", "tiny"])
def test_small_presets_have_small_autoencoders(name):
    assert sum(p.numel() for p in build_autoencoder(load_preset(name).vae).parameters()) < 2e6


def test_paper_is_the_paper():
    preset = load_preset("paper")
    assert preset.folds == 5
    seg, vae, cls, crop = preset.seg, preset.vae, preset.cls, preset.crop
    assert (seg.network, seg.epochs, seg.batch_size, seg.learning_rate) == ("SwinUNETR", 400, 2, 1e-4)
    assert (seg.patch_size, seg.spacing, seg.channels) == ((96, 96, 96), "native", None)
    assert (vae.epochs, vae.batch_size, vae.learning_rate, vae.kl_weight) == (6000, 8, 1e-6, 1e-7)
    assert (vae.channels, vae.latent_channels) == ((32, 64, 128), 4)
    assert not vae.mask_inputs
    assert (cls.epochs, cls.batch_size, cls.learning_rate, cls.patience) == (300, 4, 1e-4, 20)
    assert cls.dual_attention_blocks == 2 and cls.pooling == "global" and cls.validate_every == 1
    assert (crop.size, crop.spacing, crop.component) == ((96, 96, 48), "native", "all")
    for stage in (seg, vae, cls):
        assert stage.schedule == "constant" and stage.ema_decay is None and stage.clip_gradient is None


def test_neonet_differs_from_paper_where_the_design_says_so():
    preset = load_preset("neonet")
    assert preset.vae.mask_inputs and preset.seg.spacing == preset.crop.spacing == "median"


def test_settings_cannot_be_changed_after_reading():
    preset = load_preset("tiny")
    with pytest.raises(ValidationError):
        preset.folds = 3


@pytest.mark.parametrize(("change", "read"), [
    ("seg.epochs=20", lambda p: p.seg.epochs == 20),
    ("seg.learning_rate=1e-3", lambda p: p.seg.learning_rate == 1e-3),  # YAML 1.1 takes 1e-3 for text
    ("seg.patch_size=[64, 64, 32]", lambda p: p.seg.patch_size == (64, 64, 32)),
    ("crop.spacing=native", lambda p: p.crop.spacing == "native"),
    ("crop.spacing=[1, 1.5, 3]", lambda p: p.crop.spacing == (1.0, 1.5, 3.0)),
    ("cls.patience=null", lambda p: p.cls.patience is None),
    ("vae.mask_inputs=false", lambda p: p.vae.mask_inputs is False),
    ("protocol=paper", lambda p: p.protocol == "paper"),
])
def test_a_value_is_changed_and_no_other(change, read):
    before, after = load_preset("tiny").model_dump(), load_preset("tiny", [change])
    assert read(after)
    key, changed = change.partition("=")[0].split("."), after.model_dump()
    inner_before, inner_after = before, changed
    for part in key[:-1]:
        inner_before, inner_after = inner_before[part], inner_after[part]
    inner_after[key[-1]] = inner_before[key[-1]]
    assert changed == before


@pytest.mark.parametrize(("change", "named"), [
    ("seg.epoch=20", "seg.epoch"),
    ("sge.epochs=20", "sge"),
    ("seg.epochs=many", "seg.epochs"),
    ("seg.epochs=0", "seg.epochs"),
    ("seg.learning_rate=-1", "seg.learning_rate"),
    ("seg.learning_rate=.nan", "seg.learning_rate"),
    ("seg.network=VNet", "seg.network"),
    ("seg.patch_size=[32, 32]", "seg.patch_size"),
    ("seg.patch_size=[0, 32, 16]", "seg.patch_size"),
    ("crop.size=[-32, 32, 16]", "crop.size"),
    ("crop.spacing=[0, 1, 1]", "crop.spacing"),
    ("crop.spacing=[.inf, 1, 1]", "crop.spacing"),
    ("vae.channels=[]", "vae.channels"),
    ("vae.channels=[8, -8]", "vae.channels"),
    ("seg.overlap=1", "seg.overlap"),
    ("cls={epochs: 9, batch_size: 2, learning_rate: 0.1, validate_every: 5, patience: 4}", "patience"),
    ("cls.dual_attention_blocks=-1", "cls.dual_attention_blocks"),
    ("inner_fraction=0.9", "inner_fraction"),
    ("name.first=x", "name"),
    ("seg.epochs", "seg.epochs"),
    ("=3", "=3"),
    ("seg.patch_size=[32, 32", "seg.patch_size"),
])
def test_what_is_not_allowed_is_named(change, named):
    assert named in bad(load_preset, "tiny", [change])


def test_norm_groups_that_do_not_divide_the_channels_are_named():
    assert "norm_groups" in bad(build_autoencoder, load_preset("tiny", ["vae.norm_groups=3"]).vae)


def test_a_file_of_the_users_own(tmp_path):
    path = tmp_path / "mine.yaml"
    values = load_preset("tiny").model_dump(mode="json") | {"name": "mine", "folds": 3}
    import yaml

    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert load_preset(path, ["seg.epochs=7"]).seg.epochs == 7
    assert load_preset(str(path)).folds == 3
    path.write_text("seg: [", encoding="utf-8")
    bad(load_preset, path)
    path.write_text("- 1", encoding="utf-8")
    bad(load_preset, path)
    path.write_text("name: mine", encoding="utf-8")
    assert "seg" in bad(load_preset, path)  # a preset is complete: nothing is filled in


@pytest.mark.parametrize("name", ["nosuch", "nosuch.yaml", "../tiny", ""])
def test_an_unknown_preset_lists_those_there_are(name):
    with pytest.raises(NeoNetError) as caught:
        load_preset(name)
    assert caught.value.code == "UNKNOWN_PRESET" and "paper" in caught.value.hint
