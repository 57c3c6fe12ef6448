"""What MindFormers makes of YAML files: run as a script, in a process of its own, with the files in the words of the call.

Prints JSON: for each file the config that MindFormers reads, and, where the folder of Hugging Face lies beside it, the config that it reads
with that folder in `pretrained_model_dir`, and the parameters of the network for training.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

NETWORKS = {  # model_type: module below mindformers.models, class
    "qwen3": ("qwen3.modeling_qwen3_train", "TrainingQwen3ForCausalLM"),
    "qwen3_moe": ("qwen3_moe.modeling_qwen3_moe_train", "TrainingQwen3MoeForCausalLM"),
    "deepseek_v3": ("deepseek3.modeling_deepseek_v3_train", "TrainingDeepseekV3ForCausalLM"),
    "telechat3": ("telechat3.modeling_telechat3_train", "TrainingTeleChat3ForCausalLM"),
    "telechat3_moe": ("telechat3_moe.modeling_telechat3_moe_train", "TrainingTeleChat3MoeForCausalLM"),
}


def read_with_mindformers(file: Path) -> dict[str, Any]:
    from mindformers.models.build_config import get_model_config  # in this process alone
    from mindformers.tools.register import MindFormerConfig  # the same

    said = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]
    # the dynamic graph has no level between, and a reader of its own
    model = MindFormerConfig(str(file)).model if "model_config" in said else MindFormerConfig(model_config=said)
    config = get_model_config(model)
    found = {"config": config.to_dict()}
    folder = file.parent / "hf"
    if folder.is_dir():
        plain = model.to_dict()["model_config"]
        found["from the folder"] = get_model_config(MindFormerConfig(pretrained_model_dir=str(folder), model_config=plain)).to_dict()
        if config.model_type in NETWORKS:
            module, name = NETWORKS[config.model_type]
            network = getattr(import_module(f"mindformers.models.{module}"), name)(config)
            found["parameters"] = {p.name: list(p.shape) for p in network.get_parameters()}
    return found


def main() -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # mindformers speaks while it is imported
        import mindformers.core.context  # noqa: F401

        # a context of MindFormers needs a device; it would say what `use_legacy: false` in the YAML says
        context = SimpleNamespace(get_context={"use_legacy": False}.get)
        sys.modules["mindformers.core.context.build_context"].MFContextOperator.get_mf_ctx_instance = lambda: context
        found = {file: read_with_mindformers(Path(file)) for file in sys.argv[1:]}
    print(json.dumps(found, default=str))


if __name__ == "__main__":
    main()
