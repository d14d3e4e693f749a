"""Folders as they are found: each kind is read with the right values, or refused with a sentence that names the file.

The table is the list of what was seen on hubs and disks, and of what a hostile folder may have.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.core.errors import PipelineError, UnsupportedModelError, WeightsNotFoundError
from pipelines.core.model import ModelSpec, WeightFile
from pipelines.hub import local as weights
from pipelines.loading.load import load_pipeline
from pipelines.loading.modules import WeightSource
from pipelines.models.registry import family_of
from tests.support.models.wan_files import State

WAN = family_of("WanPipeline")
INDEX = "diffusion_pytorch_model.safetensors.index.json"
SINGLE = "diffusion_pytorch_model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 1000\n"
MATRIX = "blocks.0.ffn.net.0.proj.weight"

Change = Callable[[Path], Any]


def changed(path: str, **fields: Any) -> Change:
    """Set fields of a JSON file."""
    return lambda folder: edit(folder / path, lambda content: content | fields)


def edit(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def written(path: str, content: str | bytes) -> Change:
    return lambda folder: (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def removed(path: str) -> Change:
    return lambda folder: (folder / path).unlink()


def cut(path: str, left: int) -> Change:
    return lambda folder: written(path, (folder / path).read_bytes()[:left])(folder)


def pipe(path: str) -> Change:
    """A named pipe, which never ends when it is read."""

    def change(folder: Path) -> None:
        (folder / path).unlink()
        os.mkfifo(folder / path)

    return change


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def shards_of(folder: Path) -> list[Path]:
    return sorted((folder / "transformer").glob("*.safetensors"))


def transformer(folder: Path) -> State:
    state: State = {}
    for path in shards_of(folder):
        state |= load_file(path)
    return state


def as_one_file(folder: Path, change: Callable[[State], State] = lambda state: state, name: str = SINGLE) -> None:
    """Replace the transformer's shards by one file."""
    state = change(transformer(folder))
    for path in (*shards_of(folder), folder / "transformer" / INDEX):
        path.unlink(missing_ok=True)
    save_file(state, folder / "transformer" / name)


def with_tensor(name: str, tensor: torch.Tensor) -> Change:
    return lambda folder: as_one_file(folder, lambda state: {**state, name: tensor})


def without(part: str, file: str, name: str) -> Change:
    def change(folder: Path) -> None:
        state = load_file(folder / part / file)
        del state[name]
        save_file(state, folder / part / file)

    return change


def with_map(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Replace the index's map from tensors to files."""
    return lambda folder: edit(
        folder / "transformer" / INDEX, lambda index: {**index, "weight_map": change(index["weight_map"])}
    )


def header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Replace the header of the VAE's file, at its old length or more."""
    path = folder / "vae" / SINGLE
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = json.dumps(change(json.loads(content[8 : 8 + length]))).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def with_entry(**fields: Any) -> Change:
    """Change the description of one tensor in the header of the VAE's file."""
    name = "post_quant_conv.bias"
    return lambda folder: header(folder, lambda tensors: {**tensors, name: {**tensors[name], **fields}})


def quantized(**config: Any) -> Change:
    return changed("transformer/config.json", quantization_config=config)


MISSING, REFUSED = WeightsNotFoundError, UnsupportedModelError

BROKEN: list[tuple[str, Change, type[PipelineError], str]] = [
    # the list of components
    ("no index", removed("model_index.json"), MISSING, r"not a diffusers folder: it has no model_index\.json"),
    ("empty index", written("model_index.json", ""), MISSING, r"model_index\.json is empty"),
    ("index cut off", cut("model_index.json", 60), MISSING, r"model_index\.json is not valid JSON"),
    (
        "index is a list",
        written("model_index.json", "[]"),
        MISSING,
        r"model_index\.json is not valid: it holds no JSON",
    ),
    ("index in LFS", written("model_index.json", POINTER), MISSING, r"model_index\.json is a Git LFS pointer"),
    ("index not UTF-8", written("model_index.json", b'{"\xff": 1}'), MISSING, r"model_index\.json is not valid JSON"),
    ("index too deep", written("model_index.json", "[" * 100_000), MISSING, r"model_index\.json is not valid JSON"),
    ("other pipeline", changed("model_index.json", _class_name="FluxPipeline"), REFUSED, "is a FluxPipeline"),
    ("vae not used", changed("model_index.json", vae=[None, None]), REFUSED, r"model_index\.json does not list vae"),
    ("vae not listed well", changed("model_index.json", vae=["diffusers"]), REFUSED, "library and class of vae"),
    (
        "own code",
        changed("model_index.json", scheduler=["own", "Own"]),
        REFUSED,
        r"has scheduler of own; only diffusers",
    ),
    ("vae of transformers", changed("model_index.json", vae=["transformers", "X"]), REFUSED, "vae of transformers"),
    (
        "listed, not there",
        changed("model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"], boundary_ratio=0.875),
        MISSING,
        r"transformer_2/config\.json is missing",
    ),
    ("boundary, one expert", changed("model_index.json", boundary_ratio=0.9), REFUSED, "boundary_ratio, but only one"),
    # configurations
    ("config is a pipe", pipe("vae/config.json"), MISSING, r"vae/config\.json is not a file"),
    ("config is a folder", lambda folder: replace_by_folder(folder / "vae" / "config.json"), MISSING, "is not a file"),
    ("no config", removed("vae/config.json"), MISSING, r"vae/config\.json is missing"),
    ("empty config", written("transformer/config.json", ""), MISSING, r"transformer/config\.json is empty"),
    ("config cut off", cut("text_encoder/config.json", 50), MISSING, r"text_encoder/config\.json is not valid JSON"),
    ("config in LFS", written("vae/config.json", POINTER), MISSING, r"vae/config\.json is a Git LFS pointer"),
    ("config is text", written("vae/config.json", '"x"'), MISSING, r"vae/config\.json is not valid: it holds no JSON"),
    (
        "many layers",
        changed("transformer/config.json", num_layers=10**9),
        REFUSED,
        r"config\.json has num_layers = 1000",
    ),
    ("long rope", changed("transformer/config.json", rope_max_seq_len=10**12), REFUSED, "rope_max_seq_len = 1000"),
    (
        "long list",
        changed("vae/config.json", dim_mult=[1] * 2000),
        REFUSED,
        r"vae/config\.json has 2000 values for dim",
    ),
    (
        "no layers",
        changed("transformer/config.json", num_layers=0),
        REFUSED,
        "num_layers of transformer must be a whole",
    ),
    ("layers in words", changed("transformer/config.json", num_layers="two"), REFUSED, "num_layers of transformer"),
    (
        "wrong patch",
        changed("transformer/config.json", patch_size=[1, 2]),
        REFUSED,
        "cannot be planned for",
    ),
    # tokenizer and scheduler
    ("no vocabulary", removed("tokenizer/tokenizer.json"), MISSING, r"tokenizer/tokenizer\.json is missing"),
    (
        "vocabulary in LFS",
        written("tokenizer/tokenizer.json", POINTER),
        MISSING,
        r"tokenizer\.json is a Git LFS pointer",
    ),
    (
        "vocabulary cut off",
        cut("tokenizer/tokenizer.json", 999),
        MISSING,
        r"tokenizer/tokenizer\.json is not valid JSON",
    ),
    ("no pieces", written("tokenizer/tokenizer.json", '{"model": {"vocab": []}}'), MISSING, "has no vocabulary"),
    (
        "sentencepiece in LFS",
        written("tokenizer/spiece.model", POINTER),
        MISSING,
        r"spiece\.model is a Git LFS pointer",
    ),
    ("sentencepiece empty", written("tokenizer/spiece.model", ""), MISSING, r"tokenizer/spiece\.model is empty"),
    (
        "tokenizer's config cut",
        cut("tokenizer/tokenizer_config.json", 9),
        MISSING,
        r"tokenizer_config\.json is not valid",
    ),
    ("no tokenizer", lambda folder: shutil.rmtree(folder / "tokenizer"), MISSING, "tokenizer is missing"),
    ("no schedule", removed("scheduler/scheduler_config.json"), MISSING, r"scheduler_config\.json is missing"),
    ("schedule cut off", cut("scheduler/scheduler_config.json", 40), MISSING, r"scheduler_config\.json is not valid"),
    # indexes
    ("index of shards empty", written(f"transformer/{INDEX}", ""), MISSING, r"index\.json is empty"),
    ("index without a map", with_map(lambda _: None), MISSING, r"index\.json names no files"),
    ("index of nothing", with_map(lambda _: {}), MISSING, r"index\.json names no files"),
    ("file outside", with_map(lambda m: {**m, "x": "../vae/x.safetensors"}), MISSING, r"index\.json names '\.\./vae/x"),
    ("absolute file", with_map(lambda m: {**m, "x": "/etc/x.safetensors"}), MISSING, r"index\.json names '/etc/x"),
    ("no file name", with_map(lambda m: {**m, "x": 7}), MISSING, r"index\.json names '7'"),
    ("pickled shard", with_map(lambda m: {**m, "x": "x.bin"}), MISSING, r"index\.json names 'x\.bin'"),
    (
        "too many files",
        with_map(lambda _: {str(n): f"{n}.safetensors" for n in range(1001)}),
        MISSING,
        "names 1001 files",
    ),
    ("shard missing", lambda folder: shards_of(folder)[1].unlink(), MISSING, r"-00002-of-\d+\.safetensors is missing"),
    (
        "a tensor twice",
        lambda folder: shutil.copy(shards_of(folder)[0], shards_of(folder)[1]),
        REFUSED,
        r"-00001-of-\d+\.safetensors and .*-00002-of-\d+\.safetensors both have",
    ),
    # weight files
    ("no weights", removed(f"vae/{SINGLE}"), MISSING, rf"no \.safetensors file in .*vae is named {SINGLE}"),
    (
        "only a variant",
        lambda folder: (folder / "vae" / SINGLE).rename(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors"),
        MISSING,
        r"vae is named .* It has diffusion_pytorch_model\.fp16\.safetensors, which is not used",
    ),
    (
        "another name",
        lambda folder: (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / SINGLE),
        MISSING,
        rf"text_encoder is named model\.safetensors.* It has {SINGLE}",
    ),
    ("weights in LFS", written(f"vae/{SINGLE}", POINTER), MISSING, rf"vae/{SINGLE} is a Git LFS pointer"),
    ("weights empty", written(f"vae/{SINGLE}", ""), MISSING, rf"vae/{SINGLE} is truncated or damaged"),
    ("weights cut in the header", cut(f"vae/{SINGLE}", 100), MISSING, rf"vae/{SINGLE} is truncated or damaged"),
    ("weights cut", cut(f"vae/{SINGLE}", 20_000), MISSING, rf"vae/{SINGLE} is truncated or damaged: its length"),
    (
        "header too long",
        written(f"vae/{SINGLE}", b"\xff" * 8 + b"{}"),
        MISSING,
        rf"vae/{SINGLE} is truncated or damaged",
    ),
    ("header is text", written(f"vae/{SINGLE}", b"\x02" + b"\0" * 7 + b"{x"), MISSING, "header is not JSON"),
    ("header is a list", lambda folder: header(folder, lambda _: []), MISSING, rf"vae/{SINGLE} .*header is not JSON"),
    ("entry without a shape", with_entry(shape=None), MISSING, r"does not describe post_quant_conv\.bias"),
    ("entry of another size", with_entry(shape=[17]), MISSING, r"does not describe post_quant_conv\.bias"),
    ("negative shape", with_entry(shape=[-4, -4]), MISSING, r"does not describe post_quant_conv\.bias"),
    ("entries overlap", with_entry(data_offsets=[0, 64]), MISSING, "its tensors overlap or leave gaps"),
    ("unknown dtype", with_entry(dtype="F4"), REFUSED, r"post_quant_conv\.bias as F4, which is not supported"),
    # tensors
    ("missing tensor", without("vae", SINGLE, "post_quant_conv.bias"), MISSING, r"vae has no post_quant_conv\.bias"),
    (
        "missing norm",
        without("text_encoder", "model.safetensors", "encoder.final_layer_norm.weight"),
        MISSING,
        "final_l",
    ),
    ("unknown tensor", with_tensor("blocks.9.x", torch.ones(1)), REFUSED, rf"{SINGLE} is for another .* blocks\.9\.x"),
    ("wrong shape", with_tensor(MATRIX, torch.ones(2, 2)), REFUSED, rf"{SINGLE}: {MATRIX} is \[2, 2\] in the files"),
    ("int8", with_tensor(MATRIX, torch.ones(32, 24, dtype=torch.int8)), REFUSED, rf"{SINGLE} has {MATRIX} as I8"),
    (
        "no weight for a scale",
        with_tensor("blocks.0.x.weight_scale", torch.ones(1)),
        REFUSED,
        r"no blocks\.0\.x\.weight",
    ),
    (
        "scaled fp32",
        with_tensor(MATRIX.replace("weight", "weight_scale"), torch.ones(1)),
        REFUSED,
        "unsupported scales",
    ),
    # quantized folders
    (
        "nf4",
        quantized(quant_method="bitsandbytes", load_in_4bit=True),
        REFUSED,
        r"config\.json .*bitsandbytes \(load_in_4",
    ),
    ("bnb int8", quantized(load_in_8bit=True), REFUSED, r"config\.json .* by bitsandbytes \(load_in_8bit\)"),
    ("torchao", quantized(quant_method="torchao", quant_type="int8wo"), REFUSED, r"config\.json .* by torchao"),
    ("gptq", quantized(quant_method="gptq", bits=4), REFUSED, r"config\.json .* by gptq"),
    ("awq", quantized(quant_method="awq"), REFUSED, r"config\.json .* by awq"),
    ("unknown method", quantized(bits=3), REFUSED, r"config\.json .* by an unknown method"),
]


@pytest.mark.parametrize(("change", "error", "sentence"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_broken_folder_is_refused_with_the_file_before_anything_is_read(
    change: Change, error: type[PipelineError], sentence: str, wan21: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(wan21, tmp_path / "weights"))
    change(folder)

    with pytest.raises(error, match=sentence):
        load_pipeline(ModelSpec("wan21", fps=16), folder, "cpu", lambda *_: pytest.fail("nothing should be read"))


WITHOUT_TENSORS = [row for row in BROKEN if row[0] not in {
    "a tensor twice", "missing tensor", "missing norm", "unknown tensor", "wrong shape", "no weight for a scale",
    "scaled fp32",
}]  # fmt: skip


@pytest.mark.parametrize("change", [row[1] for row in WITHOUT_TENSORS], ids=[row[0] for row in WITHOUT_TENSORS])
def test_a_server_refuses_the_folder_as_well_without_torch(change: Change, wan21: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wan21, tmp_path / "weights"))
    change(folder)

    with pytest.raises(PipelineError):
        weights.locate(ModelSpec(str(folder), fps=16))


@pytest.mark.parametrize(
    ("ratio", "sentence"),
    [
        (None, "two transformers and no boundary_ratio"),
        (1.5, r"the boundary_ratio 1\.5"),
        (0, "the boundary_ratio 0"),
        (True, "True"),
    ],
)
def test_two_experts_need_a_boundary(ratio: Any, sentence: str, a14b: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(a14b, tmp_path / "weights"))
    changed("model_index.json", boundary_ratio=ratio)(folder)

    for use in (weights.locate, lambda spec: WAN.read_shape(Path(spec.repo))):
        with pytest.raises(UnsupportedModelError, match=sentence):
            use(ModelSpec(str(folder), fps=16))


def old_shard(folder: Path) -> None:
    """A shard of an earlier upload, which the index does not name."""
    name = "diffusion_pytorch_model-00001-of-00099.safetensors"
    save_file({"patch_embedding.weight": torch.zeros(3)}, folder / "transformer" / name)


def variants(folder: Path) -> None:
    for path in (folder / "vae" / SINGLE, folder / "text_encoder" / "model.safetensors"):
        zeros = {name: torch.zeros_like(tensor).half() for name, tensor in load_file(path).items()}
        save_file(zeros, path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    written("transformer/diffusion_pytorch_model.fp16.safetensors.index.json", "{broken")(folder)


def file_beside_an_index(folder: Path) -> None:
    save_file({"patch_embedding.weight": torch.zeros(3)}, folder / "transformer" / SINGLE)


def index_beside_a_file(folder: Path) -> None:
    written("text_encoder/model.safetensors.index.json", "{broken")(folder)


def unused_expert(folder: Path) -> None:
    shutil.copytree(folder / "transformer", folder / "transformer_2")
    changed("model_index.json", transformer_2=[None, None])(folder)


def renamed_shards(folder: Path) -> None:
    names = {path.name: f"part_{number}.safetensors" for number, path in enumerate(shards_of(folder))}
    for path in shards_of(folder):
        path.rename(path.with_name(names[path.name]))
    with_map(lambda weight_map: {name: names[file] for name, file in weight_map.items()})(folder)


def readme(folder: Path) -> None:
    written("README.md", POINTER)(folder)
    written("transformer/notes.json", "{broken")(folder)
    written("vae/diffusion_pytorch_model.bin", "a pickle")(folder)


def ignored_by_the_class(folder: Path) -> None:
    as_one_file(folder, lambda state: {**state, "blocks.0.attn2.norm_added_q.weight": torch.ones(24)})


def tied(*names: str) -> Change:
    """Store the text encoder's embedding under these of its two names."""

    def change(folder: Path) -> None:
        path = folder / "text_encoder" / "model.safetensors"
        state = load_file(path)
        embedding = state.pop("shared.weight")
        state.pop("encoder.embed_tokens.weight", None)
        save_file(state | {name: embedding.clone() for name in names}, path)

    return change


def sharded_encoder(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    state = load_file(path)
    path.unlink()
    weight_map = {}
    for number, name in enumerate(state):
        file = f"model-{number % 2 + 1:05}-of-00002.safetensors"
        weight_map[name] = file
    for file in set(weight_map.values()):
        save_file({name: state[name] for name in state if weight_map[name] == file}, path.with_name(file))
    index = {"metadata": {}, "weight_map": weight_map}
    written("text_encoder/model.safetensors.index.json", json.dumps(index))(folder)


def old_vae(folder: Path) -> None:
    """The published configurations of Wan2.1's VAE are older than these settings."""
    path = folder / "vae" / "config.json"
    later = ("scale_factor_spatial", "scale_factor_temporal", "is_residual", "patch_size", "decoder_base_dim")
    edit(path, lambda config: {name: value for name, value in config.items() if name not in later})


READ: list[tuple[str, Change]] = [
    ("as saved", lambda _: None),
    ("one file", as_one_file),
    ("an old shard", old_shard),
    ("fp16 variants", variants),
    ("a file beside an index", file_beside_an_index),
    ("an index beside the encoder's file", index_beside_a_file),
    ("an expert that is not used", unused_expert),
    ("shards of other names", renamed_shards),
    ("files that are not read", readme),
    ("a tensor that the class ignores", ignored_by_the_class),
    ("the encoder's embedding, shared", tied("shared.weight")),
    ("the encoder's embedding, of the encoder", tied("encoder.embed_tokens.weight")),
    ("the encoder's embedding, twice", tied("shared.weight", "encoder.embed_tokens.weight")),
    ("an encoder in shards", sharded_encoder),
    ("an old VAE's configuration", old_vae),
    ("a null quantization", changed("transformer/config.json", quantization_config=None)),
]


@pytest.mark.parametrize("change", [row[1] for row in READ], ids=[row[0] for row in READ])
def test_a_folder_is_read_as_from_pretrained_reads_it(change: Change, wan21: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wan21, tmp_path / "weights"))
    change(folder)
    assert weights.locate(ModelSpec(str(folder), fps=16)) == folder

    pipe = load_pipeline(ModelSpec("wan21", fps=16), folder, "cpu").pipe

    assert WAN.read_shape(folder) == WAN.read_shape(wan21)
    assert pipe.transformer_2 is None
    for name in ("transformer", "text_encoder", "vae"):
        part = getattr(pipe, name)
        # the library warns of the tensors that it does not use
        expected = type(part).from_pretrained(folder, subfolder=name, dtype=part.dtype).state_dict()
        assert {key: tensor.tolist() for key, tensor in part.state_dict().items()} == {
            key: tensor.tolist() for key, tensor in expected.items()
        }


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("config", [None, {"quant_method": "compressed-tensors"}, {"quant_method": "modelopt"}])
def test_the_scales_of_an_fp8_folder_are_applied(
    config: dict[str, Any] | None, rows: bool, shards: int, wan21: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(wan21, tmp_path / "weights"))
    expected = transformer(folder)
    stored: State = {"scaled_fp8": torch.ones(2), "blocks.0.comfy_quant": torch.ones(3, dtype=torch.uint8)}
    for name, tensor in transformer(folder).items():
        if not name.startswith("blocks.") or tensor.ndim != 2:
            stored[name] = tensor
            continue
        scale = (tensor.abs().amax(1, keepdim=True) if rows else tensor.abs().max()) / 448
        stored[name] = (tensor / scale).to(torch.float8_e4m3fn)
        stored[f"{name}_scale"] = scale
        stored[name.replace(".weight", ".input_scale")] = torch.ones(1)
        expected[name] = stored[name].float() * scale
    as_one_file(folder)
    (folder / "transformer" / SINGLE).unlink()
    if shards == 1:
        save_file(stored, folder / "transformer" / SINGLE)
    else:
        # the scales are in another file than their matrices
        beside = {name: tensor for name, tensor in stored.items() if name.endswith("_scale")}
        others = {name: tensor for name, tensor in stored.items() if name not in beside}
        for file, tensors in (("a.safetensors", beside), ("b.safetensors", others)):
            save_file(tensors, folder / "transformer" / file)
        weight_map = {**dict.fromkeys(beside, "a.safetensors"), **dict.fromkeys(others, "b.safetensors")}
        written(f"transformer/{INDEX}", json.dumps({"weight_map": weight_map}))(folder)
    changed("transformer/config.json", quantization_config=config)(folder)

    read = load_pipeline(ModelSpec("wan21", fps=16), folder, "cpu").pipe.transformer.state_dict()

    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(read[name], tensor.to(read[name].dtype)), name


def test_a_single_file_in_git_lfs_is_named(wan21: Path, tmp_path: Path) -> None:
    (tmp_path / "tuned.safetensors").write_text(POINTER)
    file = WeightFile(str(tmp_path), "tuned.safetensors")

    with pytest.raises(WeightsNotFoundError, match=r"tuned\.safetensors is a Git LFS pointer"):
        weights.locate(ModelSpec(str(wan21), fps=16, files=(file,)))


def test_progress_and_sizes_count_only_the_files_that_are_read(wan21: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wan21, tmp_path / "weights"))
    before = WeightSource(folder / "transformer", WAN.part("transformer")).nbytes
    assert before == sum(path.stat().st_size for path in shards_of(folder))

    old_shard(folder)
    unused_expert(folder)
    written("transformer/diffusion_pytorch_model.fp16.safetensors", b"0" * 9)(folder)

    assert WeightSource(folder / "transformer", WAN.part("transformer")).nbytes == before
    told: list[str] = []
    load_pipeline(ModelSpec("wan21", fps=16), folder, "cpu", lambda component, _: told.append(component))
    assert set(told) == {"transformer", "text_encoder", "vae", "ready"}
