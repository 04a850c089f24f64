"""The nodes, a file for each room of core. Importing this needs ComfyUI."""

from comfy_api.latest import ComfyExtension, io

from .algebra import AddWordsToInstruction, BlendInstructions, ComposeInstructions, InspectInstruction, ScaleInstruction
from .beginnings import CaptionInit, LoadOpenClip, UniquePhrasesNode
from .comfy import finders, lpips, mllms, open_clip, paths, supported
from .editing import ApplyInstruction, EditGuiderNode, FixedNoiseNode
from .evaluation import EvaluateEdit
from .finding import FindRegion, LoadRegionFinder
from .instruction import LoadInstruction, SaveInstruction
from .learning import LearnInstruction, LearnTextInstruction
from .loading import LoadEditPairs, LoadInstructPix2Pix, MakeEditPairs
from .preference import JudgePreference
from .reasoning import EncodeInstruction, ExplainInstruction, LoadConnector, LoadMllm
from .region_editing import RegionConditioning, RegionEdit
from .regions import CleanRegion, CombineRegions, PasteBack, SoftRegion


class InstructBrushExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def on_load(self) -> None:
        """Enter the pack's model folder and the models that ComfyUI does not detect by itself."""
        paths.register()
        open_clip.register()
        lpips.register()
        finders.register()
        mllms.register()
        supported.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes, in the order of a first use."""
        return [
            LoadInstructPix2Pix,
            LoadEditPairs,
            MakeEditPairs,
            LoadOpenClip,
            UniquePhrasesNode,
            CaptionInit,
            LearnInstruction,
            LearnTextInstruction,
            SaveInstruction,
            LoadInstruction,
            ApplyInstruction,
            EditGuiderNode,
            FixedNoiseNode,
            ScaleInstruction,
            BlendInstructions,
            ComposeInstructions,
            AddWordsToInstruction,
            InspectInstruction,
            LoadRegionFinder,
            FindRegion,
            CleanRegion,
            SoftRegion,
            CombineRegions,
            PasteBack,
            RegionEdit,
            RegionConditioning,
            LoadMllm,
            ExplainInstruction,
            LoadConnector,
            EncodeInstruction,
            EvaluateEdit,
            JudgePreference,
        ]
