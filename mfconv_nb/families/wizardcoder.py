"""WizardCoder, StarCoder and other GPTBigCode models with one key/value head: q, k and v in one matrix; the other weights transposed.

Source: MindFormers 1.4.0-beta2, `research/wizardcoder`, which has the sizes of the 15B model typed in. Golden case `wizardcoder-*`.
"""

from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.families.gpt import EMBEDDINGS, HF, MF, NORMS, OF_RUN
from mfconv_nb.families.gpt import SIZES as GPT_SIZES
from mfconv_nb.families.words.shorthand import DENSE, linear
from mfconv_nb.mapping.rules import Family, Rule, Tied, rename_rules

PREFIX = {"{prefix}": "transformer."}

FAMILY = Family(
    key="wizardcoder",
    covers="WizardCoder 15B, StarCoder, SQLCoder (one key/value head)",
    model_types=("gpt_bigcode",),
    run_classes={"WizardCoderConfig": RunClass({**OF_RUN, "n_positions": "n_position"})},
    sizes={**GPT_SIZES, "k": "n_embd / n_head", "v": "n_embd / n_head", "tied": "tie_word_embeddings | 1"},
    rules=rename_rules(
        (
            *EMBEDDINGS,
            *NORMS,
            Rule(
                HF + "attn.c_attn.weight",
                tuple(f"{MF}attention.{name}.weight" for name in DENSE),
                "(q + k + v) hidden -> q hidden, k hidden, v hidden",
            ),
            Rule(HF + "attn.c_attn.bias", tuple(f"{MF}attention.{name}.bias" for name in DENSE), "(q + k + v) -> q, k, v"),
            *linear(HF + "attn.c_proj", MF + "attention.projection", "hidden", "from_hidden", transposed=True),
            *linear(HF + "mlp.c_fc", MF + "output.mapping", "ffn", "hidden", transposed=True),
            *linear(HF + "mlp.c_proj", MF + "output.projection", "hidden", "ffn", transposed=True),
            Tied("lm_head.weight", "head.head_weight", same_as="{prefix}wte.weight", layout="vocab hidden"),
        ),
        hf=PREFIX,
    ),
    toy={
        "architectures": ["GPTBigCodeForCausalLM"],
        "model_type": "gpt_bigcode",
        "vocab_size": 331,
        "n_positions": 22,
        "n_embd": 96,
        "n_inner": 176,
        "n_layer": 3,
        "n_head": 6,
        "multi_query": True,
        "activation_function": "gelu",
        "tie_word_embeddings": True,
    },
    source="MindFormers 1.4.0-beta2",
)
