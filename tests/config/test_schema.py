"""Options: what is read, what replaces what, and the sentence that each mistake gets."""

from pathlib import Path

import pytest

from ssdlite.config.model import ModelConfig
from ssdlite.config.schema import RECIPES_DIR, Config, config_from_dict, load_config, recipe_path
from ssdlite.errors import ConfigError

CONFIGS = sorted([*(Path(__file__).parents[2] / "configs").glob("*.yaml"), *RECIPES_DIR.glob("*.yaml")])


def test_overrides_are_split_at_the_first_equals_and_read_as_yaml():
    config = load_config(None, ["run.name=a=b", "optim.lr=5e-3", "model.input_size=[200, 300]", "data.workers=0"])
    assert config.run.name == "a=b"
    assert config.optim.lr == 0.005
    assert config.model.input_size == (200, 300)
    assert config.data.workers == 0


def test_one_number_is_a_square():
    assert load_config(None, ["model.input_size=300"]).model.input_size == (300, 300)


def test_data_path_replaces_the_sources_and_keeps_the_rest(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("data: {path: x, draw: {train: 9}, augmentation: light, class_names: [a]}\n")
    data = load_config(file, ["data=photos"]).data
    assert (data.path, data.draw, data.class_names, data.augmentation) == (Path("photos"), None, None, "light")


def test_a_choice_replaces_its_whole_node(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("loss: {kind: multibox, neg_pos_ratio: 7}\n")
    assert load_config(file, ["loss=multibox"]).loss.neg_pos_ratio == 3
    assert load_config(file, ["loss.min_negatives=5"]).loss.neg_pos_ratio == 7


def test_a_single_source_is_a_list_of_one():
    data = load_config(None, ["data.train={kind: voc, root: r, splits: [train, val]}"]).data
    assert data.train is not None and data.train[0].splits == ["train", "val"]


def test_a_path_beside_both_sources_is_refused_and_data_replaces_them():
    voc = next(path for path in CONFIGS if path.stem == "voc")
    with pytest.raises(ConfigError, match=r"'data' in the command line: path .*data=PATH replaces them"):
        load_config(voc, ["data.path=mine"])
    assert load_config(voc, ["data=mine"]).data.train is None


@pytest.mark.parametrize(
    "overrides", [[], ["model.weights=runs/a/best.pt", "model.freeze=[backbone, norms]", "optim.lr_factors.head=2"]]
)
def test_plain_values_survive_a_round_trip(overrides):
    config = load_config(recipe_path("quickstart"), overrides)
    assert config_from_dict(config.to_dict()) == config


def test_weights_are_a_word_or_a_file():
    words = [load_config(None, [f"model.weights={text}"]).model.weights for text in ("auto", "none", "a/none")]
    assert words == ["auto", "none", Path("a/none")]


SHAPE = "[{scale: 0.1, aspect: 1}]"


def levels(first: str, count: int = 6) -> str:
    """Of `count` maps, the first as given."""
    return "model.priors=[" + ", ".join([first] + [SHAPE] * (count - 1)) + "]"


def test_priors_are_a_word_or_shapes_of_six_maps():
    assert [load_config(None, [f"model.priors={word}"]).model.priors for word in ("dialect", "auto")] == [
        "dialect",
        "auto",
    ]
    config = load_config(None, [levels("[{scale: 0.05, aspect: 0.5, density: 3}, {scale: 1, aspect: 2}]")])
    assert [len(level) for level in config.model.priors] == [2, 1, 1, 1, 1, 1]
    dense, plain = config.model.priors[0]
    assert (dense.scale, dense.aspect, dense.density, plain.density) == (0.05, 0.5, 3, 1)
    assert config_from_dict(config.to_dict()) == config


def test_options_without_priors_are_of_the_time_before_there_were_others():
    nodes = Config().to_dict()
    del nodes["model"]["priors"]
    assert config_from_dict(nodes).model.priors == "dialect"


def test_a_shape_is_one_line_of_yaml(tmp_path):
    config = load_config(None, [levels("[{scale: 0.05, aspect: 0.5, density: 3}]")])
    file = tmp_path / "c.yaml"
    file.write_text(config.to_yaml())
    assert "  - - {scale: 0.05, aspect: 0.5, density: 3}\n" in config.to_yaml()
    assert load_config(file) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path):
    assert isinstance(load_config(path), Config)


def test_there_are_configs():
    assert {"quickstart", "quality", "coco", "voc", "bccd", "helmet"} <= {path.stem for path in CONFIGS}


def test_an_unknown_recipe_names_the_nearest_or_all():
    with pytest.raises(ConfigError, match=r"no recipe 'qualty'; did you mean quality\?"):
        recipe_path("qualty")
    with pytest.raises(ConfigError, match=r"no recipe 'x'; recipes are quality, quickstart\."):
        recipe_path("x")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optim.lrr=1", "unknown option 'optim.lrr' in the command line; did you mean 'optim.lr'?"),
        ("data.draw.sed=1", "did you mean 'data.draw.seed'?"),
        ("lr=1", "did you mean 'optim.lr'?"),
        ("optim.rl=1", "did you mean 'optim.lr'?"),
        ("frobnicate=1", "known are data, model, loss, optim, train, eval, run."),
        ("optim.lr=-1", "'optim.lr' in the command line: input should be greater than 0 (got -1)."),
        ("optim=3", "'optim' in the command line is a section"),
        ("optim.lr", "'optim.lr' is not of the form KEY=VALUE"),
        ("optim.lr.x=3", "'optim.lr'"),
        ("model.input_size=10", "'model.input_size.0'"),
        ("model.dialect=papr", "'paper', 'tensorflow', 'pytorch-ssd', 'lufficc' or 'mmdetection' (got 'papr')"),
        ("model.priors=dailect", "'model.priors' in the command line: input should be 'dialect' or 'auto' (got"),
        ("model.priors=3", "'model.priors' in the command line: must be dialect, auto, or lists of shapes"),
        ("model.priors=true", "priors must not be true"),
        (levels(SHAPE, 5), "'model.priors' in the command line: needs a list of shapes for each of the 6 maps"),
        (levels("[]"), "'model.priors' in the command line: must be dialect, auto, or lists of shapes"),
        (levels("[{scale: -1, aspect: 1}]"), "'model.priors.0.0.scale' in the command line: input should be great"),
        (levels("[{scale: 1, aspect: 0}]"), "'model.priors.0.0.aspect' in the command line"),
        (levels("[{scale: 1}]"), "'model.priors.0.0.aspect' in the command line: field required"),
        (levels("[{scale: 1, aspect: 1, density: 5}]"), "'model.priors.0.0.density' in the command line"),
        (levels("[{scale: 1, aspect: 1, density: true}]"), "density must not be true"),
        (levels("[{scale: 1, aspect: 1, desnity: 2}]"), "did you mean 'model.priors.0.0.density'?"),
        (levels("[" + ", ".join(["{scale: 1, aspect: 1, density: 4}"] * 17) + "]"), "256 priors in a cell at most"),
        ("model={head: corner, priors: auto}", "priors has no effect with head=corner"),
        ("model.freeze=[bakcbone]", "'model.freeze.0'"),
        ("model.freeze=[early,early]", "'early' is named twice"),
        ("optim.lr_factors.heads=1", "did you mean 'optim.lr_factors.head'?"),
        ("optim.lr_factors.head=0", "'optim.lr_factors.head' in the command line: input should be greater"),
        ("optim.lr_factors=0.1", "'optim.lr_factors' in the command line is a section"),
        ("data.ignore_unkown=true", "did you mean 'data.ignore_unknown'?"),
        ("data.vertical_flip=maybe", "'data.vertical_flip'"),
        ("loss=focl", "'loss.kind' in the command line must be multibox or focal"),
        ("loss=3", "'loss' in the command line"),
        ("loss.gamma=2", "unknown option 'loss.gamma' in the command line; it belongs to loss=focal."),
        ("loss.class_weight=balanced", "did you mean 'loss.class_weights'?"),
        ("loss.class_weights=balancd", "weights by class name such as {person: 2} (got 'balancd')"),
        ("loss.box_loss=iou", "'smooth_l1', 'giou', 'diou' or 'ciou' (got 'iou')"),
        (
            "loss.assignment=simota",
            "'loss.assignment.kind' in the command line must be iou or atss or task-aligned",
        ),
        ("loss.assignment.candidates=3", "it belongs to loss.assignment=atss and task-aligned."),
        ("loss.gama=2", "did you mean 'loss.gamma' of 'loss=focal'?"),
        ("loss.assignment.background_below=.9", "background_below=0.9 must not exceed iou_threshold=0.5"),
        ("loss.assignment.iou_threshold=0", "'loss.assignment.iou_threshold' in the command line"),
        ("loss.all_ties=true", "did you mean 'loss.assignment.all_ties'?"),
        ("loss.class_weights={a: -1}", "the weight of 'a' must be a number, 0 or more, as in {person: 2} (got -1)"),
        ("loss.class_weights=[1, 2]", "must be balanced, or weights by class name such as {person: 2}"),
        ("loss={kind: sampled, positive_share: 0}", "num_samples * positive_share must be 1 or more"),
        ("loss={kind: sampled, box_loss: giou, sigma: 1}", "sigma has no effect with box_loss=giou"),
        ("run.seed=-1", "'run.seed' in the command line"),
        ("loss=corner", "loss=corner needs model.head=corner"),
        ("data.train={kind: coc}", "'data.train.0.kind' in the command line must be coco or voc"),
        ("data.train={kind: coco, images: a, anotations: b}", "'data.train.0.annotations'"),
        ("model.input_size={a: b", "not valid YAML"),
        ("train.epochs=1.5", "'train.epochs'"),
        ("optim.lr=.nan", "'optim.lr'"),
    ],
)
def test_mistakes_get_one_sentence_with_the_dotted_name(override, sentence):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "3", "1: 2\n"])
def test_a_malformed_file_is_named(tmp_path, text):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


def test_yaml_tags_run_no_code(tmp_path):
    file = tmp_path / "evil.yaml"
    file.write_text("run: !!python/object/apply:os.system ['touch marker']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(file)


def test_an_empty_file_is_all_defaults(tmp_path):
    file = tmp_path / "empty.yaml"
    file.write_text("")
    assert load_config(file) == Config()


def test_one_part_to_freeze_needs_no_brackets():
    assert load_config(None, ["model.freeze=early"]).model.freeze == ["early"]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["data.vertical_flip=true", "data.augmentation=none"], "vertical_flip has no effect"),
        (["data.cache_side=500"], "cache_side has no effect with cache=none"),
        (["data.cache=disk", "data.cache_side=500", "data.augmentation=flip"], "no effect with augmentation=flip"),
        (["data.cache=memory", "data.cache_dir=x"], "cache_dir has no effect with cache=memory"),
        (["data.augment_on=device", "data.augmentation=none"], "augment_on=device has no effect"),
        (["train.sync_norms=true", "model.freeze=norms", "model.weights=x.pt"], "sync_norms has no effect"),
        (["model.freeze=backbone", "optim.lr_factors.backbone=0.1"], "lr_factors.backbone has no effect"),
    ],
)
def test_options_that_cancel_each_other_are_refused(overrides: list[str], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        load_config(None, overrides)


def test_each_recipe_has_its_own_assignment():
    assert load_config(None, ["loss=focal"]).loss.assignment.background_below == 0.4
    sampled = load_config(None, ["loss=sampled"]).loss.assignment
    assert (sampled.iou_threshold, sampled.background_below, sampled.all_ties) == (0.7, 0.3, True)
    assert load_config(None, ["loss=quality"]).loss.assignment.kind == "task-aligned"


def test_a_part_of_an_assignment_leaves_the_rest_as_the_recipe_has_it():
    changed = load_config(None, ["loss=sampled", "loss.assignment.iou_threshold=.6"]).loss.assignment
    assert (changed.iou_threshold, changed.background_below, changed.all_ties) == (0.6, 0.3, True)
    other = load_config(None, ["loss=sampled", "loss.assignment=atss", "loss.assignment.candidates=5"]).loss
    assert (other.kind, other.assignment.kind, other.assignment.candidates) == ("sampled", "atss", 5)


def test_an_assignment_may_be_a_word_in_a_file(tmp_path):
    file = tmp_path / "words.yaml"
    file.write_text("loss: {kind: quality, assignment: atss}\n")
    assert load_config(file).loss.assignment.candidates == 9
    assert load_config(file, ["loss.assignment.candidates=5"]).loss.assignment.candidates == 5
    file.write_text("loss: focal\n")
    assert load_config(file, ["loss.gamma=0"]).loss.gamma == 0


def test_the_head_brings_its_loss():
    assert load_config(None, ["model.head=corner"]).loss.kind == "corner"
    assert load_config(None, ["model.head=corner", "loss.pull_weight=.2"]).loss.pull_weight == 0.2
    with pytest.raises(ConfigError, match=r"model\.head=corner learns by loss=corner, not by loss=focal"):
        load_config(None, ["model.head=corner", "loss=focal"])


def test_another_head_drops_the_loss_of_the_file():
    for config in (config for config in CONFIGS if config.stem in ("bccd", "helmet")):
        assert load_config(config, ["model.head=corner"]).loss.kind == "corner"
    assert Config(model=ModelConfig(head="corner")).loss.kind == "corner"


def test_classes_may_be_named_by_digits():
    assert load_config(None, ["loss.class_weights={1: 2}"]).loss.class_weights == {"1": 2.0}


def test_checkpoints_from_before_the_choice_of_assignments_are_read():
    old = {"loss": {"kind": "multibox", "iou_threshold": 0.4, "neg_pos_ratio": 3.0}}
    assert config_from_dict(old).loss.assignment.iou_threshold == 0.4


def test_what_is_written_is_read_back(tmp_path):
    for overrides in (["loss=sampled"], ["loss=quality", "loss.assignment=atss"], ["model.head=corner"]):
        config = load_config(None, overrides)
        assert config_from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss.gamma=1.5", "loss=focal"],
        ["loss.assignment.candidates=5", "loss.assignment=atss", "loss=quality"],
        ["loss.pull_weight=.2", "model.head=corner"],
    ],
)
def test_the_order_of_overrides_does_not_matter(overrides):
    assert load_config(None, overrides) == load_config(None, overrides[::-1])


def test_a_part_given_before_its_choice_is_still_checked():
    with pytest.raises(ConfigError, match=r"did you mean 'loss\.gamma'"):
        load_config(None, ["loss.gama=3", "loss=focal"])
