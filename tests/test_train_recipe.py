"""What a recipe says about training: every setting honoured, or refused by name in one line."""

from __future__ import annotations

import pytest

from dbnet.errors import DbnetError
from dbnet.recipe import read_recipe
from dbnet.recipe_configs import names
from dbnet.recipe_train import TrainingPlan, training_plan
from dbnet.spec import IMAGENET_MEAN, IMAGENET_STD
from dbnet.train_settings import OptimizerSettings, ScaleSettings
from tests.seed_recipes import sections

R18 = "db_r18_icdar15"
PIPELINE = "train.dataset.transform_pipeline"


def plan(*settings: str, recipe: str = R18) -> TrainingPlan:
    return training_plan(read_recipe(recipe, settings))


@pytest.mark.parametrize("name", names())
def test_a_recipe_of_the_seed_can_be_trained(name):
    found = plan(recipe=name)
    assert (found.pipeline.mean, found.pipeline.std, found.pipeline.colour) == (IMAGENET_MEAN, IMAGENET_STD, "RGB")
    assert found.pipeline.augmentation.crop_size == ((960, 960) if name == "db_mobilenetv3_ppocrv3" else (640, 640))
    assert found.spec.step_function == "paper"
    assert any("--step-function mindocr" in note for note in found.notes)


@pytest.mark.parametrize("name", names())
def test_what_the_seed_says(name, need):
    """The plan of a recipe against the text of the seed's own files."""
    told = sections(need("recipes_of_the_seed.txt").read_text(encoding="utf-8"))[name]
    found, pipeline = plan(recipe=name), [text for path, text in told.items() if path.startswith(PIPELINE)]
    optimizer, shrink = found.optimizer, next(text for text in pipeline if text.startswith("ShrinkBinaryMap"))
    assert optimizer.name == {"Adam": "adam"}.get(told["optimizer.opt"], "momentum")
    assert optimizer.momentum == float(told.get("optimizer.momentum", 0.9))
    assert optimizer.weight_decay == float(told.get("optimizer.weight_decay", 0))
    assert str(optimizer.filter_bias_and_bn) == told.get("optimizer.filter_bias_and_bn", "True")
    assert optimizer.betas == (0.9, 0.999)
    assert optimizer.accumulate == int(told.get("train.gradient_accumulation_steps", 1))
    assert (optimizer.ema_decay is not None) == (told.get("train.ema") == "True")
    assert optimizer.loss_scale == ScaleSettings(float(told["loss_scaler.loss_scale"]), 2.0, 1000, True)
    assert (found.batch_size, found.workers) == tuple(
        int(told[f"train.loader.{key}"]) for key in ("batch_size", "num_workers"))
    assert found.epochs == int(told["scheduler.num_epochs"])
    assert (found.validation is not None) == (told["system.val_while_train"] == "True")
    if found.validation is not None:
        assert found.validation.start == int(told.get("system.val_start_epoch", 1))
        assert found.validation.interval == int(told.get("system.val_interval", 1))
    augmentation = found.pipeline.augmentation
    assert (augmentation.rotate_p == 1.0) == any(text.startswith("RandomRotate") for text in pipeline)
    assert (augmentation.brightness, augmentation.saturation, augmentation.flip_p) == (0.1255, 0.5, 0.5)
    assert f'"shrink_ratio": {found.pipeline.targets.shrink_ratio}' in shrink


@pytest.mark.parametrize(("settings", "wanted"), [
    (["optimizer.opt=Adam"], OptimizerSettings("adam", 0.9, 0.0, True)),
    (["optimizer.opt=Adam", "optimizer.beta1=0.8", "optimizer.eps=1e-6"],
     OptimizerSettings("adam", 0.9, 0.0, True, (0.8, 0.999), 1e-6)),
    (["optimizer.opt=momentum", "optimizer.momentum=0.5", "optimizer.filter_bias_and_bn=True"],
     OptimizerSettings("momentum", 0.5, 1e-4, True)),
    (["optimizer.momentum=0"], OptimizerSettings("sgd", 0.0, 1e-4)),
    (["optimizer.grouping_strategy=filter_norm_and_bias"], OptimizerSettings("momentum", 0.9, 1e-4, True)),
    (["train.clip_grad=True"], OptimizerSettings(clip_norm=1.0)),
    (["train.clip_grad=True", "train.clip_norm=5"], OptimizerSettings(clip_norm=5.0)),
    (["train.clip_norm=5"], OptimizerSettings()),
    (["train.ema=True", "train.ema_decay=0.99"], OptimizerSettings(ema_decay=0.99)),
    (["train.ema_decay=0.99"], OptimizerSettings()),
    (["train.gradient_accumulation_steps=4"], OptimizerSettings(accumulate=4)),
    (["loss_scaler={type: static, loss_scale: 64}"],
     OptimizerSettings(loss_scale=ScaleSettings(64.0, 2.0, 2000, False))),
    (["optimizer.loss_scale=1024"], OptimizerSettings(loss_scale=ScaleSettings(1024.0, dynamic=False))),
])
def test_optimizer(settings, wanted):
    assert plan(*settings).optimizer == wanted


def test_augmentation_and_targets():
    settings = [f"{PIPELINE}.{text}" for text in (
        "RandomColorAdjust={brightness: [0.9, 1.1]}", "RandomHorizontalFlip=null", "RandomRotate={p: 0.2}",
        "RandomScale={scale_range: [3, 1], size_limits: [900, 300]}", "RandomCropWithBBox={crop_size: [320, 640]}",
        "ValidatePolygons={min_area: 20, min_vertices: 3}", "ShrinkBinaryMap={shrink_ratio: 0.5, min_text_size: 4}",
        "BorderMap={shrink_ratio: 0.6, thresh_min: 0.2, thresh_max: 0.8}")]
    found = plan(*settings).pipeline
    a, t = found.augmentation, found.targets
    assert (a.brightness, a.saturation, a.flip_p, a.rotate, a.rotate_p, a.expand_canvas) == (
        pytest.approx(0.1), 0.5, 0.5, (-10, 10), 0.2, True)
    assert (a.scale, a.scale_p, a.crop_size, a.crop_p, a.max_tries, a.min_area) == (
        (1.0, 3.0), 0.5, (320, 640), 0.5, 10, 20.0)
    assert a.size_limits == (300, 900)
    assert plan(f"{PIPELINE}.RandomScale.size_limits=null").pipeline.augmentation.size_limits is None
    assert (t.shrink_ratio, t.border_shrink_ratio, t.min_text_size, t.thresh_min, t.thresh_max) == (0.5, 0.6, 4, .2, .8)


def pipeline_of(*without: str, **changes: str) -> str:
    """The usual pipeline as an option, without some operations, or with others in place of them."""
    usual = {"DecodeImage": "{img_mode: RGB}", "DetLabelEncode": "", "RandomColorAdjust": "",
             "RandomHorizontalFlip": "", "RandomRotate": "{degrees: [-10, 10]}", "RandomScale": "{scale_range: [1, 2]}",
             "RandomCropWithBBox": "", "ValidatePolygons": "", "ShrinkBinaryMap": "", "BorderMap": "",
             "NormalizeImage": "", "ToCHWImage": ""}
    steps = [changes.get(name, f"{name}: {value}") for name, value in usual.items() if name not in without]
    return f"{PIPELINE}=[{', '.join('{' + step + '}' for step in steps)}]"


def test_a_step_that_is_not_there_does_not_happen():
    found = plan(pipeline_of("RandomColorAdjust", "RandomHorizontalFlip", "RandomRotate", "RandomScale"))
    a = found.pipeline.augmentation
    assert (a.brightness, a.saturation, a.flip_p, a.rotate_p, a.scale_p) == (0, 0, 0, 0, 0)


def test_order():
    """MLT2017's recipes flip and turn what they have cropped."""
    assert plan().pipeline.augmentation.order == ("flip", "rotate", "scale", "crop")
    assert plan(recipe="db_r50_mlt2017").pipeline.augmentation.order == ("scale", "crop", "flip", "rotate")
    assert plan(recipe="db_r18_ctw1500").pipeline.augmentation.order == ("rotate", "flip", "scale", "crop")
    turned = plan(pipeline_of("RandomScale", RandomHorizontalFlip="RandomRotate: ",
                              RandomRotate="RandomHorizontalFlip: "))
    assert turned.pipeline.augmentation.order == ("scale", "rotate", "flip", "crop")


def test_colours():
    bgr = plan(pipeline_of(DecodeImage="DecodeImage: {img_mode: BGR}"))
    assert bgr.spec.pixels.colour == "BGR"
    assert any("trained on BGR pixels, evaluated on RGB" in note for note in bgr.notes)
    swapped = plan(pipeline_of(DecodeImage="DecodeImage: {img_mode: BGR}",
                               NormalizeImage="NormalizeImage: {bgr_to_rgb: True, mean: [1, 2, 3]}"))
    assert (swapped.spec.pixels.colour, swapped.spec.pixels.mean) == ("RGB", (1.0, 2.0, 3.0))
    ours = plan(pipeline_of(DecodeImage="Decode: ", ToCHWImage="HWC2CHW: "))
    assert ours.spec.pixels.colour == "RGB"
    assert ours.pipeline.ignore_orientation and not bgr.pipeline.ignore_orientation
    assert plan(f"{PIPELINE}.DecodeImage.ignore_orientation=True").pipeline.ignore_orientation


@pytest.mark.parametrize(("setting", "told"), [
    (pipeline_of("BorderMap"), "has no BorderMap, which training needs"),
    (pipeline_of("RandomCropWithBBox"), "has no RandomCropWithBBox"),
    (pipeline_of("DecodeImage"), "has no DecodeImage"),
    (pipeline_of("NormalizeImage"), "has no NormalizeImage"),
    (pipeline_of(RandomScale="DetResize: {target_size: [640, 640]}"), "DetResize is not supported in training"),
    (pipeline_of(RandomScale="IaaAugment: {Fliplr: {p: 0.5}}"), "IaaAugment is not supported in training"),
    (pipeline_of(RandomScale="RandomRotate: "), r"pipeline\[5\] \(command line\): RandomRotate comes twice"),
    (pipeline_of("RandomColorAdjust", BorderMap="RandomColorAdjust: "), "RandomColorAdjust cannot stand here"),
    (pipeline_of("RandomRotate", ValidatePolygons="RandomRotate: "),
     "RandomRotate with expand_canvas behind RandomCropWithBBox is not supported"),
    (pipeline_of("RandomScale", ValidatePolygons="RandomScale: {scale_range: [1, 2]}"),
     "RandomScale behind RandomCropWithBBox is not supported"),
    (pipeline_of(ShrinkBinaryMap="BorderMap: ", BorderMap="ShrinkBinaryMap: "), "BorderMap before ShrinkBinaryMap"),
    (f"{PIPELINE}.DecodeImage.to_float32=True", "to_float32: True is not supported, only False"),
    (f"{PIPELINE}.RandomColorAdjust.contrast=0.5", "contrast: 0.5 is not supported"),
    (f"{PIPELINE}.RandomColorAdjust.hue=[-0.1, 0.1]", "hue: 0.1 is not supported"),
    (f"{PIPELINE}.RandomColorAdjust.saturation=[0.5, 1.2]", "only a range that lies around 1"),
    (f"{PIPELINE}.RandomRotate.degrees=[-0.5, 10]", "whole degrees"),
    (f"{PIPELINE}.RandomRotate.degrees=[10, -10]", "whole degrees"),
    (f"{PIPELINE}.RandomCropWithBBox.crop_size=[640, 650]", "no multiple of 32"),
    (f"{PIPELINE}.ValidatePolygons={{clip_to_visible_area: True}}", "clip_to_visible_area: True is not supported"),
    (f"{PIPELINE}.BorderMap.thresh_min=0.9", "thresh_min 0.9 must be below thresh_max 0.7"),
    (f"{PIPELINE}.ShrinkBinaryMap.shrink_ratio=1", "must be below 1"),
    (f"{PIPELINE}.NormalizeImage.std=[1, 0, 1]", "divides by zero"),
    ("optimizer.opt=AdamW", "AdamW is not supported; there are SGD, momentum and Adam"),
    ("optimizer.nesterov=True", "True is not supported, only False"),
    ("optimizer.momentum=1", "momentum cannot be 1"),
    ("optimizer.grouping_strategy=svtr", "svtr is not supported"),
    ("optimizer.no_weight_decay_params=[beta]", "is not supported"),
    ("system.amp_level=O3", "O3 is not supported, only O0 and O2"),
    ("model.head.adaptive=False", "only True"),
    ("model.head.weight_init=Normal", "only 'HeUniform'"),
    ("train.dataset.mindrecord=True", "mindrecord"),
    ("train.dataset.output_columns=[image]", "output_columns"),
    ("train.ema_decay=1.5", "a number from 0 to 1"),
])
def test_what_cannot_be_had_is_named(setting, told):
    with pytest.raises(DbnetError, match=told) as error:
        plan(setting)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("settings", "told"), [
    (["scheduler.num_epochs=2"], "the warm-up of 3 epochs is not over"),
    (["scheduler.num_epochs=499"], "no epoch is evaluated, so there will be no best checkpoint"),
    (["system.mode=1", "train.loader.prefetch_size=4", "eval.loader.batch_size=2"],
     "without effect here: system.mode, train.loader.prefetch_size, eval.loader.batch_size"),
    (["system.amp_level=O2"], "a step whose gradients overflow is left out all the same"),
    (["system.amp_level_infer=O2"], "evaluation computes in float32"),
    (["optimizer.filter_bias_and_bn=True"], "MindOCR's code decays them all the same"),
])
def test_notes(settings, told):
    notes = plan(*settings).notes
    assert any(told in note for note in notes), notes
    assert not any(told in note for note in plan("scheduler.warmup_epochs=1").notes)


def test_validation_is_due():
    check = plan("system.val_start_epoch=5", "system.val_interval=3").validation
    assert check is not None
    assert [epoch for epoch in range(1, 13) if check.due(epoch)] == [5, 8, 11]
    assert plan("system.val_while_train=False").validation is None


def test_what_goes_before_the_recipe():
    read = read_recipe(R18, ["system.amp_level=O3"])
    found = training_plan(read, step_function="mindocr", mining="batch", precision="bf16", seed=7)
    assert (found.spec.step_function, found.loss.mining, found.precision, found.seed) == ("mindocr", "batch", "bf16", 7)
    assert not any("--step-function" in note for note in found.notes)
