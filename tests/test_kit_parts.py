"""The parts of a kit's run that need no MindSpore: the plan, the work so far, the small result, the first verdict."""

from __future__ import annotations

import errno
import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dbnet.cann import find_cann
from dbnet.errors import DbnetError
from dbnet.running import Device
from dbnet.spec import STAGES
from parity import kit_preflight, kit_store
from parity.kit_plan import TINY, Pace, Step, counted, steps_of, told_seconds
from parity.kit_result import fitted, gather, judged, unchanged
from parity.kit_store import Work
from parity.tolerances import TOLERANCES, WHOLE_IMAGES, least_of, tolerances_of
from parity.trace import PIXELS, Recorder, Trace, TracedImage
from parity.trace_file import read_traces, write_traces

ABOUT = {"environment": {"device": "cpu", "precision": "float32"}}


# The plan -------------------------------------------------------------------------------------------------------------


def test_the_most_valuable_comes_first():
    steps = steps_of(2, "ascend")
    assert [(step.mode, step.kind, step.image) for step in steps] == [
        ("exact", "record", TINY), ("default", "record", TINY), ("exact", "record", 0), ("exact", "record", 1),
        ("default", "timing", 0), ("default", "record", 0), ("default", "record", 1),
        ("fp16", "record", TINY), ("fp16", "record", 0), ("fp16", "record", 1),
        ("exact", "repeat", TINY), ("exact", "repeat", 0), ("exact", "repeat", 1)]
    assert {step.mode for step in steps_of(2, "cpu")} == {"exact", "default"}
    assert len({(step.mode, step.name) for step in steps}) == len(steps)
    sessions = [step.session for step in steps]
    assert len(set(sessions)) == len(list(itertools.groupby(sessions)))
    assert all(len({step.mode for step in steps if step.session == name}) == 1 for name in sessions)


def test_steps_are_estimated_from_those_before():
    step, timing = Step("exact", "record", 0, "images"), Step("default", "timing", 0, "timing")
    pace = Pace(20.0)
    assert pace.of(step, 1_000_000, True) == 20.0
    pace.starts += [3.0, 4.0]
    assert pace.of(step, 1_000_000, True) == 20.0, "nothing was run yet"
    pace.compiling.append(5.0)
    pace.small.append((10_000, 0.1, 0.28))
    assert pace.of(replace(step, image=TINY), 10_000, True) == pytest.approx(1.2 * (4.0 + 5.0 + 0.38))
    record = 0.28 * (1 + 99 / 14)
    assert pace.of(step, 1_000_000, False) == pytest.approx(1.2 * (10.0 + record)), "from the small picture, by pixels"
    assert pace.of(step, 1_000_000, True) == pytest.approx(1.2 * (4.0 + 5.0 + 10.0 + record))
    pace.images += [(500_000, 1.0, 0.5), (500_000, 2.0, 0.25)]
    assert pace.of(step, 1_000_000, False) == pytest.approx(1.2 * (4.0 + 1.0)), "from the slowest image so far"
    assert pace.of(timing, 1_000_000, True) == pytest.approx(1.2 * (9.0 + 11 * 4.0))


@pytest.mark.parametrize(("images", "told"), [
    ([TINY, 0, 1], "the small picture and 2 images"), ([TINY], "the small picture"), ([1], "1 image"),
    ([], "no image")])
def test_the_small_picture_is_none_of_the_images(images, told):
    assert counted([replace(STEP, image=image).of(["a", "b"]) for image in images]) == told


@pytest.mark.parametrize(("seconds", "told"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (10, "10 s"), (59.2, "1 min 0 s"),
                                               (200, "3 min 20 s")])
def test_seconds_are_told(seconds, told):
    assert told_seconds(seconds) == told


# The work so far ------------------------------------------------------------------------------------------------------

STEP, IDENTITY = Step("exact", "repeat", 3, "repeat"), {"device": "cpu", "mindspore": "2.10.0"}


def test_work_is_kept_and_found_again(tmp_path):
    work = Work(tmp_path / "a+b .trace", "k" * 64)
    assert work.begin(IDENTITY) == []
    assert work.done(STEP) is None
    work.save(STEP, {"seconds": 1.5})
    with pytest.raises(DbnetError, match=r"another run\.py is at work there"):
        Work(tmp_path / "a+b .trace", "k" * 64)
    work.close()
    again = Work(tmp_path / "a+b .trace", "k" * 64)
    assert again.begin(IDENTITY) == []
    assert again.done(STEP) == {"seconds": 1.5}
    again.path(STEP, ".json").write_bytes(b'{"seconds": 1.')
    assert again.done(STEP) is None, "what is not whole is done again"
    recorded = replace(STEP, kind="record")
    again.save(recorded, {"seconds": 1.0})
    assert again.done(recorded) is None, "its trace is not there"
    again.close()
    with pytest.raises(DbnetError, match=r"holds the work of another kit \('kkkkkkkkkkkk'..., this is qqqqqqqqqqqq"):
        Work(tmp_path / "a+b .trace", "q" * 64)


@pytest.mark.parametrize("changed", [{"device": "ascend:0"}, {"mindspore": "2.9.0"}, {"jit_level": "O0"},
                                     {"OMP_NUM_THREADS": "2"}])
def test_what_was_run_otherwise_is_refused_and_begins_again_by_force(tmp_path, changed):
    work = Work(tmp_path / "result", "k")
    work.begin(IDENTITY)
    assert work.begin({**IDENTITY, "device": "x"}) == work.begin(IDENTITY) == [], "nothing was done yet"
    work.save(STEP, {})
    name, value = next(iter(changed.items()))
    apart = f"{name} was {IDENTITY.get(name)} and is {value}"
    with pytest.raises(DbnetError, match=rf"holds work of cpu, MindSpore 2.10.0 \({apart}\); nothing was started; name "
                                         "another --out, or --force to begin again"):
        work.begin({**IDENTITY, **changed})
    assert work.done(STEP) == {} and work.begin(IDENTITY) == []
    assert f"exact: begins again, {apart}" in work.begin({**IDENTITY, **changed}, force=True)
    assert work.done(STEP) is None
    assert work.begin({**IDENTITY, **changed}) == []


def test_a_file_system_without_locks_is_no_other_run(tmp_path, monkeypatch):
    def flock(_stream, _how):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(kit_store.fcntl, "flock", flock)
    assert "cannot be locked (No locks available)" in Work(tmp_path / "r", "k").begin(IDENTITY)[0]


def test_work_that_does_not_say_whose_it_is(tmp_path):
    work = Work(tmp_path / "r", "k")
    work.begin(IDENTITY)
    work.close()
    (work.folder / "kit.json").write_text("{")
    with pytest.raises(DbnetError, match="holds the work of another kit"):
        Work(tmp_path / "r", "k")


def test_a_damaged_step_is_told_and_done_again(tmp_path):
    work = Work(tmp_path / "r", "k")
    work.begin(IDENTITY)
    steps = [step for step in steps_of(2, "cpu") if step.kind == "record"]
    for step in steps:
        write_traces(work.path(step, ".trace"), {"image": _image(f"{step.image}", _maps(), "sampled")})
        work.save(step, {})
    broken = work.path(steps[3], ".trace")
    broken.write_bytes(broken.read_bytes()[:-1])
    told: list[str] = []
    tiny, images = gather(work, steps, told)
    assert set(tiny) == {"exact.tiny", "default.tiny"}
    assert [len(images[mode]) for mode in ("exact", "default")] == [1, 2]
    assert len(told) == 1 and "image-00001.trace: is damaged" in told[0]
    assert [work.done(step) is None for step in steps] == [step == steps[3] for step in steps]


def test_work_that_cannot_be_written(tmp_path):
    (tmp_path / "result.work").write_text("a file")
    with pytest.raises(DbnetError, match="cannot be written"):
        Work(tmp_path / "result", "k")


# The result -----------------------------------------------------------------------------------------------------------


def _maps(shift: float = 0.0, height: int = 64, width: int = 64) -> dict[str, np.ndarray]:
    wave = np.sin(np.arange(height * width, dtype=np.float32)).reshape(1, 1, height, width)
    maps = {stage: wave * np.float32(i + 1) + np.float32(shift) for i, stage in enumerate(STAGES)}
    return {PIXELS: np.repeat(wave, 3, axis=1), **maps}


def _image(name: str, maps: dict[str, np.ndarray], level: str = "sampled", **environment: object) -> Trace:
    shape = maps[PIXELS].shape
    about = {"environment": {**ABOUT["environment"], **environment}}
    recorder = Recorder(about, (PIXELS, *STAGES), level, keep=("probability",))
    recorder.add(TracedImage(name, None, shape[2:], shape[2:], shape), maps)
    return recorder.trace()


@pytest.mark.parametrize(("limit", "count", "level", "stages", "images", "whole"), [
    (19_000_000, 4, "sampled", 12, 4, 4),
    (2_110_000, 4, "sampled", 12, 4, 1),
    (2_160_000, 4, "sampled", 12, 4, 3),
    (1_000_000, 4, "statistics", 12, 4, 4),
    (300_000, 4, "statistics", 5, 4, 2),
    (140_000, 4, "statistics", 2, 4, 0),
    (60_000, 4, "statistics", 2, 2, 0),
    (1_000, 4, None, 0, 0, 0),
])
def test_the_result_stays_below_its_limit(tmp_path, limit, count, level, stages, images, whole):
    traces = [_image(f"img_{i}+ä.jpg", _maps(i / 10)) for i in range(count)]
    runs, notes = fitted({}, {"exact": traces, "default": traces}, limit)
    if level is None:
        assert not runs
        assert "the first 0 of 4 images" in notes[-1]
        return
    path = tmp_path / "result.trace"
    write_traces(path, runs)
    assert path.stat().st_size <= limit + 20_000  # names and places of the arrays
    for run in read_traces(path).values():
        assert (run.level, len(run.stages), len(run.images)) == (level, stages, images)
        assert bytes.fromhex(run.sha256(images - 1, "probability"))
    kept = [name for run in runs.values() for name in run.arrays if name.startswith("full/")]
    assert len(kept) >= whole
    assert bool(notes) == ((level, stages, images) != ("sampled", 12, 4))


def _verdict(candidate: dict[str, np.ndarray], **environment: object):
    """Of the small picture in full, and of a sampled image."""
    reference = {"reference": _image("a", _maps()), "reference.tiny": _image("a", _maps(), "full")}
    return judged({"exact.tiny": _image("a", candidate, "full", **environment),
                   "exact": _image("a", candidate, **environment)}, reference)


def test_the_same_bits_are_told_as_such():
    assert [(one.same, one.passed) for one in _verdict(_maps())] == [(True, True)] * 2
    assert _verdict(_maps())[0].told().endswith("1 image: same as the reference, bit for bit")


@pytest.mark.parametrize(("environment", "shift", "passed"), [
    ({}, 1e-6, True), ({}, 1e-3, False),
    ({"device": "ascend:0", "hf32": False, "precision_mode": "must_keep_origin_dtype"}, 5e-4, True),
    ({"device": "ascend:0", "hf32": False, "precision_mode": "must_keep_origin_dtype"}, 2e-3, False),
    ({"device": "ascend:0", "hf32": "default", "precision_mode": "default"}, 1e-2, True),
    ({"device": "ascend:0", "hf32": "default", "precision_mode": "default"}, 5e-2, False),
    ({"device": "ascend:0", "precision_mode": "force_fp16"}, 1e-2, True),
    ({"device": "ascend:0", "precision_mode": "force_fp16"}, 5e-2, False),
])
def test_a_run_is_judged_by_how_it_was_run(environment, shift, passed):
    wider = WHOLE_IMAGES  # the worst of many large images
    for one in (_verdict(_maps(shift), **environment)[0], _verdict(_maps(wider * shift), **environment)[1]):
        assert one.passed is passed
        assert not one.same
        assert f"{'within tolerance' if passed else 'different'}: " in one.told()
        assert (": >= " in one.told()) == (one.run == "exact"), "samples tell the least that it can be"
        assert one.worst is not None and one.worst[2:] == ("c2", "a")


@pytest.mark.parametrize(("shift", "says"), [
    (0.0, ["default.tiny is exact.tiny bit for bit: the mode changed nothing"]), (1e-6, [])])
def test_a_mode_that_changed_nothing_is_told(shift, says):
    assert unchanged({"exact.tiny": _image("a", _maps(), "full"), "default.tiny": _image("a", _maps(shift), "full"),
                      "fp16": _image("a", _maps())}) == says


@pytest.mark.parametrize("stage", ["c4", "probability"])
def test_what_cannot_be_compared_is_different(stage):
    maps = _maps()
    maps[stage] = np.full_like(maps[stage], np.nan)
    found = _verdict(maps, device="ascend:0", precision_mode="force_fp16")
    assert not any(one.passed for one in found)
    assert all(f"{stage}: the candidate holds NaN or Inf (a)" in one.told() for one in found)


def test_a_reference_with_fewer_stages_is_compared_in_those():
    whole = _image("a", _maps())
    fewer = replace(whole, stages=(PIXELS, "probability"))
    found = judged({"exact": _image("a", _maps(1e-3))}, {"reference": fewer})[0]
    assert found.worst is not None and found.worst[2] == "probability"


def test_other_pixels_are_never_within_tolerance():
    maps = _maps()
    maps[PIXELS] = maps[PIXELS] + np.float32(1e-6)
    assert not any(one.passed for one in _verdict(maps, device="ascend:0", precision_mode="force_fp16"))


@pytest.mark.parametrize(("environment", "key"), [
    ({"device": "cpu", "precision": "float32", "hf32": None}, ("cpu", "float32", False)),
    ({"device": "cuda:0", "precision": "fp16"}, ("cuda", "fp16", False)),
    ({"device": "gpu:0", "tf32": "default"}, ("cuda", "float32", True)),
    ({"device": "ascend:1", "hf32": False, "precision_mode": "must_keep_origin_dtype"}, ("ascend", "float32", False)),
    ({"device": "ascend:1", "hf32": "set before by this process"}, ("ascend", "float32", True)),
    ({"device": "ascend:1", "hf32": "default", "precision_mode": "default"}, ("ascend", "fp16", False)),
    ({"device": "ascend:0", "precision_mode": "allow_mix_precision_bf16"}, ("ascend", "bf16", False)),
    ({"device": "ascend:0", "precision_mode": "allow_fp32_to_fp16", "hf32": True}, ("ascend", "fp16", False)),
    ({"device": "cpu", "precision": "float64"}, ("cpu", "float32", False)),
    ({"device": "cpu", "precision": "the file's own"}, ("cpu", "float32", False)),
    ({"framework": "openvino", "device": "npu", "precision": "float32"}, ("other", "float32", False)),
    ({"framework": "openvino", "device": "gpu:1"}, ("cuda", "float32", False)),
    ({"framework": "onnxruntime", "device": "coreml", "precision": "float32"}, ("other", "float32", False)),
])
def test_tolerances_follow_the_environment(environment, key):
    assert tolerances_of(environment) is TOLERANCES[key]


def test_a_shorter_format_is_allowed_more():
    for stage in ("c2", "logits", "probability", "binary"):
        rows = [TOLERANCES["ascend", precision, short].of(stage)
                for precision, short in (("float32", False), ("float32", True), ("fp16", False), ("bf16", False))]
        assert rows == sorted(rows)
    assert [least_of(stage) for stage in ("c2", "logits", "probability", "binary")] == [0.0, 0.0, 0.1, 0.1]


# Before anything is started -------------------------------------------------------------------------------------------


def _cann_home(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_info", ".info").replace("_cfg", ".cfg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(("files", "version", "compiler"), [
    ({"version_cfg": "# version: 1.0\nruntime_running_version=[7.3.0.1.231:8.0.RC2]\n"}, "8.0.RC2", None),
    ({"compiler__version_info": "Version=7.3.0.1.231\nversion_dir=8.0.RC2"}, "7.3.0.1.231", "7.3"),
    ({"aarch64-linux__ascend_toolkit_install_info": "package_name=x\nversion=8.2.RC1\n",
      "compiler__version_info": "Version=8.2.0\n"}, "8.2.RC1", "8.2"),
    ({"other__file_cfg": "version=1"}, "unknown", None), ({"version_cfg": "\x00\xff=="}, "unknown", None),
])
def test_cann_tells_its_version(tmp_path, files, version, compiler):
    home = _cann_home(tmp_path / "a b+", **files)
    found = find_cann({"ASCEND_HOME_PATH": str(home)})
    assert found is not None and (found.home, found.version, found.compiler) == (home, version, compiler)
    assert find_cann({"ASCEND_HOME_PATH": "", "ASCEND_TOOLKIT_HOME": str(home)}) == found


@pytest.mark.parametrize("environ", [{}, {"ASCEND_HOME_PATH": "/nowhere"}, {"ASCEND_HOME_PATH": __file__}])
def test_no_cann(environ):
    assert find_cann(environ) is None


KIT = {"images": [{"shape": [1, 3, 736, 1280]}], "limit": 19_000_000}
#: What MindSpore would answer on a host with an NPU.
GOOD = {"mindspore": "2.10.0", "numpy": "1.26.4", "cann_wanted": ["8.2", "8.3"], "driver": "24.1", "device": None,
        "chip": "Ascend910B2"}


@pytest.mark.parametrize(("answer", "cann", "any_cann", "problem"), [
    ({}, "8.2.0", False, None), ({}, "7.3.0", True, None), ({"cann_wanted": []}, "7.3.0", False, None),
    ({}, "7.3.0", False, "CANN 7.3 .* does not fit MindSpore 2.10.0, which works with 8.2, 8.3; source .*--any-cann"),
    ({"device": "Unsupported device target Ascend"}, None, False,
     "no Ascend NPU is visible to MindSpore 2.10.0: Unsupported device target Ascend; CANN was not found, source its "
     "set_env.sh, driver 24.1, ASCEND_RT_VISIBLE_DEVICES=3,4; --device CPU rehearses"),
    ({"device": "there are 8, so the last is Ascend:7"}, "8.2.0", False, "there are 8.*CANN is 8.2.0, driver 24.1"),
])
def test_preflight(tmp_path, monkeypatch, answer, cann, any_cann, problem):
    monkeypatch.setattr(kit_preflight, "_ask", lambda folder, device, until: {**GOOD, **answer})
    environ = {"ASCEND_RT_VISIBLE_DEVICES": "3,4"}
    if cann:
        home = _cann_home(tmp_path / "cann", compiler__version_info=f"Version={cann}")
        environ["ASCEND_HOME_PATH"] = str(home)
    checks, identity = kit_preflight.look(KIT, tmp_path, tmp_path / "r.trace", Device("ascend"), "ascend:0", any_cann,
                                          environ, 0.0)
    if problem is None:
        kit_preflight.refuse(checks)
        assert {check.name: check.told for check in checks}["device"] == (
            "Ascend:0, Ascend910B2, driver 24.1, ASCEND_RT_VISIBLE_DEVICES=3,4")
        assert identity == {"device": "ascend:0", "mindspore": "2.10.0", "numpy": "1.26.4", "driver": "24.1",
                            "chip": "Ascend910B2", "cann": cann, "ASCEND_RT_VISIBLE_DEVICES": "3,4"}
        return
    with pytest.raises(DbnetError, match=problem):
        kit_preflight.refuse(checks)


@pytest.mark.parametrize(("kit", "problem"), [
    ({**KIT, "images": [{"shape": [1, 3, 32_000, 32_000]}]}, "of memory are free, and the largest image needs"),
    ({**KIT, "limit": 10**15}, "GB free, and the work needs 3000000.0 GB; name another --out"),
])
def test_no_room(tmp_path, monkeypatch, kit, problem):
    monkeypatch.setattr(kit_preflight, "_ask", lambda folder, device, until: GOOD)
    monkeypatch.setattr(kit_preflight, "_memory", lambda: 10**10)
    checks, _ = kit_preflight.look(kit, tmp_path, tmp_path / "r.trace", Device("cpu"), "cpu", False, {}, 0.0)
    with pytest.raises(DbnetError, match=problem):
        kit_preflight.refuse(checks)


@pytest.mark.parametrize(("absent", "says"), [(True, r"No module; start run\.py with the interpreter.*has not"),
                                              (False, r"No module; try .* -c 'import mindspore'")])
def test_without_mindspore(tmp_path, monkeypatch, absent, says):
    """The worker of an interpreter that lacks it answers so."""
    monkeypatch.setattr(kit_preflight, "_ask", lambda folder, device, until: {
        "error": "MindSpore does not import: No module", "absent": absent})
    checks, _ = kit_preflight.look(KIT, tmp_path, tmp_path / "r.trace", Device("cpu"), "cpu", False, {}, 0.0)
    with pytest.raises(DbnetError, match=says):
        kit_preflight.refuse(checks)


@pytest.mark.parametrize("changed", [{"OMP_NUM_THREADS": "2"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}])
def test_what_moves_the_bits_of_a_cpu_is_part_of_where_it_was_run(tmp_path, monkeypatch, changed):
    monkeypatch.setattr(kit_preflight, "_ask", lambda folder, device, until: GOOD)
    found = [kit_preflight.look(KIT, tmp_path, tmp_path / "r.trace", Device("cpu"), "cpu", False, environ, 0.0)[1]
             for environ in ({}, changed)]
    assert found[0]["cores"] and found[0]["processor"]
    assert found[1] == found[0] | changed != found[0]


def test_json_of_a_step_is_one_object(tmp_path):
    work = Work(tmp_path / "r", "k")
    work.begin(IDENTITY)
    work.save(STEP, {"each": [time.monotonic()]})
    assert list(json.loads(work.path(STEP, ".json").read_bytes())) == ["each"]
