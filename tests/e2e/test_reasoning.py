"""The reasoning nodes over HTTP: a tiny MLLM explains or encodes a wish, and the pocket editor edits."""

import io
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from instructbrush.core.encoders.mllm import Mllm
from instructbrush.core.models.builtin import POCKET_CONNECTOR_FILE, POCKET_READER_FOLDER
from instructbrush.core.models.families import POCKET
from instructbrush.core.reasoning.connector import config_for, new_connector, save_connector
from instructbrush.tests.support import tiny_mllms
from instructbrush.tools.comfy_server import ServerError
from instructbrush.tools.prompts import Prompt

WISH = "it should look as if hours had passed"
ANSWER = '{"instruction": "make it night", "reason": "hours pass"}'


@dataclass(frozen=True)
class InputImages:
    """Names of images in the input folder, and their tensors."""

    names: list[str]
    tensors: list[torch.Tensor]


@pytest.fixture(scope="module")
def images(server):
    """Two images in the input folder."""
    folder = server.base / "input"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    made = [
        Image.fromarray(rng.integers(0, 255, (5, 5, 3), np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
        for _ in range(2)
    ]
    for index, each in enumerate(made):
        each.save(folder / f"reason_{index}.png")
    return InputImages(
        [f"reason_{index}.png" for index in range(2)],
        [torch.from_numpy(np.asarray(each) / np.float32(255)) for each in made],
    )


@pytest.fixture(scope="module")
def models(server, images):
    """A tiny LLaVA and two connectors for it, one untrained, in the server's model folders."""
    folder = server.base / "models" / "mllm" / "tiny"
    tiny_mllms.train_llava(folder, [(images.tensors[0], WISH, ANSWER)], 200)
    connector = new_connector(config_for(POCKET, Mllm(folder).width, mllm_name="tiny"))
    connectors = server.base / "models" / "connectors"
    files = [save_connector(connector, connectors / "untrained.safetensors")]
    torch.nn.init.normal_(connector.project_out.weight, std=0.3)
    files.append(save_connector(connector, connectors / "trained.safetensors"))
    yield folder
    shutil.rmtree(folder)
    for file in files:
        file.unlink()


class Reasoning(Prompt):
    """A workflow with an editor, an MLLM and images."""

    def __init__(self, names, model="pocket editor (built in)", mllm="mllm/tiny"):
        super().__init__()
        self.model = self.add("InstructBrushLoadModel", model_name=model)
        self.clip = [self.model[0], 1]
        self.vae = [self.model[0], 2]
        self.image = self.images(names)
        self.mllm = self.add("InstructBrushLoadMllm", mllm_name=mllm, precision="auto")

    def explained(self):
        """Explain Instruction; its instruction."""
        return self.add("InstructBrushExplain", mllm=self.mllm, image=self.image, wish=WISH)

    def encoded(self, connector, words=WISH):
        """Encode Instruction; its CONDITIONING."""
        loaded = self.add("InstructBrushLoadConnector", connector_name=connector)
        return self.add(
            "InstructBrushEncodeInstruction",
            mllm=self.mllm,
            connector=loaded,
            clip=self.clip,
            image=self.image,
            words=words,
        )

    def edited(self, server, conditioning=None, words=""):
        """Runs the workflow. Returns the edited images, int [n, h, w, 3] in 0..255."""
        optional = {"conditioning": conditioning} if conditioning else {}
        guider = self.add(
            "InstructBrushEditGuider",
            model=self.model,
            clip=self.clip,
            vae=self.vae,
            image=self.image,
            words=words,
            text_scale=-1.0,
            image_scale=1.5,
            strength=1.0,
            **optional,
        )
        noise = self.add("RandomNoise", noise_seed=1)
        sampler = self.add("KSamplerSelect", sampler_name="euler_ancestral")
        sigmas = self.add("BasicScheduler", model=self.model, scheduler="normal", steps=6, denoise=1.0)
        out = self.add(
            "SamplerCustomAdvanced",
            noise=noise,
            guider=guider,
            sampler=sampler,
            sigmas=sigmas,
            latent_image=[guider[0], 1],
        )
        (node, _) = self.add(
            "SaveImage", images=self.add("VAEDecode", samples=out, vae=self.vae), filename_prefix="reason"
        )
        result = server.run(self.nodes)
        return np.stack(
            [
                np.asarray(Image.open(io.BytesIO(server.view(image))).convert("RGB"))
                for image in result.images(node)
            ]
        ).astype(int)


def test_explains_a_wish_and_edits(server, models, images):
    graph = Reasoning(images.names[:1])
    words = graph.explained()
    made = graph.edited(server, words=words)
    plain = Reasoning(images.names[:1]).edited(server, words="make it night")
    assert np.array_equal(made, plain)
    graph = Reasoning(images.names[:1])
    words = graph.explained()
    graph.add("PreviewAny", source=words)
    assert server.run(graph.nodes).outputs[words[0]]["text"] == ["make it night\n\nhours pass"]


def test_encodes_words_with_each_image_of_a_batch(server, models, images):
    def edited(connector):
        graph = Reasoning(images.names)
        return graph.edited(server, graph.encoded(connector))

    def kept():
        return set((server.base / "user").rglob("states/*.safetensors"))

    before = kept()
    untrained = edited("untrained.safetensors")
    trained = edited("trained.safetensors")
    assert np.array_equal(untrained, Reasoning(images.names).edited(server, words=WISH))
    assert np.array_equal(trained, edited("trained.safetensors"))
    assert len(trained) == 2
    for with_states, without in zip(trained, untrained, strict=True):
        assert np.abs(with_states - without).mean() > 1
    assert len(kept() - before) == 2


def test_rejects_missing_models_before_the_run(server, models, images):
    graph = Reasoning(images.names[:1], mllm="mllm/llava-1.5-7b-hf")
    graph.add("PreviewAny", source=graph.explained())
    with pytest.raises(
        ServerError,
        match="MLLM 'llava-1.5-7b-hf': there is no folder .* Put llava-hf/llava-1.5-7b-hf, or another ",
    ):
        server.run(graph.nodes)
    graph = Reasoning(images.names[:1])
    conditioning = graph.encoded("nowhere.safetensors")
    with pytest.raises(ServerError, match="Connector 'nowhere.safetensors' was not found. Put a connector"):
        graph.edited(server, conditioning)


@pytest.mark.skipif(
    not (POCKET_READER_FOLDER.is_dir() and POCKET_CONNECTOR_FILE.is_file()),
    reason="this build has no pocket reader",
)
def test_edits_with_the_built_in_reader(server, images):
    graph = Reasoning(images.names[:1], "pocket reasoning editor (built in)", "pocket reader (built in)")
    made = graph.edited(server, graph.encoded("pocket connector (built in)"))
    assert made.shape == (1, 96, 96, 3) and made.std() > 1
