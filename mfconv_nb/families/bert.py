"""BERT with its pre-training head: older files call the norms' numbers gamma and beta, newer ones weight and bias.

MindFormers' converter writes the head of the predictions under `bert.`, where its network has nothing of these names, and without its bias;
it leaves out the next-sentence head. The default is what the network has.
Source: MindFormers 1.3.2, `models/bert`, a script without a way back. The golden case `bert-fp32-bin` holds its output.
"""

from dataclasses import replace

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import CONVERTER, DENSE, NAMED_BY, NETWORK, linear, norm
from mfconv_nb.mapping.rules import ALL_OR_NONE, AnyRule, Drop, Family, Option, Repeated, Rule, Tied, when

HF, MF = "bert.encoder.layer.{layer}.", "bert.bert_encoder.encoder.blocks.{layer}."
WORDS_HF, WORDS = "bert.embeddings.word_embeddings.weight", "bert.word_embedding.embedding_table"
POSTPROCESSOR = "bert.embedding_postprocessor."


def layer_norm(hf: str, mf: str) -> tuple[AnyRule, ...]:
    """A norm under either pair of names."""
    return (
        *when(*norm(hf, mf, "hidden", gain="gamma", shift="beta"), layer_norm="gamma_beta"),
        *when(*norm(hf, mf, "hidden"), layer_norm="weight_bias"),
    )


FAMILY = Family(
    key="bert",
    covers="BERT, with its pre-training head",
    model_types=("bert",),
    options=(
        replace(NAMED_BY, spelled={NETWORK: "", CONVERTER: "bert."}),
        Option("layer_norm", ("gamma_beta", "weight_bias"), side="hf", help="What the numbers of a norm are called."),
    ),
    sizes={
        "hidden": "hidden_size | ?",
        "from_hidden": "hidden_size | ?",
        "ffn": "intermediate_size | ?",
        "layer": "num_hidden_layers | ?",
        "positions": "max_position_embeddings | ?",
        "kinds": "type_vocab_size | ?",
        "vocab": "vocab_size | ?",
        "answers": "2",
        "tied": "tie_word_embeddings | 1",
    },
    rules=(
        *when(Repeated(WORDS_HF, WORDS, "vocab hidden", may_be=("cls.predictions.decoder.weight",)), named_by=NETWORK),
        *when(Rule(WORDS_HF, WORDS, "vocab hidden"), named_by=CONVERTER),
        Rule("bert.embeddings.position_embeddings.weight", POSTPROCESSOR + "full_position_embedding.embedding_table", "positions hidden"),
        Rule("bert.embeddings.token_type_embeddings.weight", POSTPROCESSOR + "token_type_embedding.embedding_table", "kinds hidden"),
        *layer_norm("bert.embeddings.LayerNorm", POSTPROCESSOR + "layernorm"),
        *linear(HF + "attention.self.query", f"{MF}attention.{DENSE[0]}", "hidden", "from_hidden"),
        *linear(HF + "attention.self.key", f"{MF}attention.{DENSE[1]}", "hidden", "from_hidden"),
        *linear(HF + "attention.self.value", f"{MF}attention.{DENSE[2]}", "hidden", "from_hidden"),
        *linear(HF + "attention.output.dense", MF + "attention.projection", "hidden", "from_hidden", transposed=True),
        *layer_norm(HF + "attention.output.LayerNorm", MF + "layernorm2"),
        *linear(HF + "intermediate.dense", MF + "output.mapping", "ffn", "hidden", transposed=True),
        *linear(HF + "output.dense", MF + "output.projection", "hidden", "ffn", transposed=True),
        *layer_norm(HF + "output.LayerNorm", MF + "layernorm1"),
        *linear("bert.pooler.dense", "bert.dense", "hidden", "from_hidden"),
        *linear("cls.predictions.transform.dense", "{named_by}mlmloss.dense", "hidden", "from_hidden"),
        *layer_norm("cls.predictions.transform.LayerNorm", "{named_by}mlmloss.layernorm"),
        *when(
            Repeated("cls.predictions.bias", "mlmloss.output_bias", "vocab", may_be=("cls.predictions.decoder.bias",)),
            *linear("cls.seq_relationship", "nsploss.dense", "answers", "hidden", optional=ALL_OR_NONE),
            named_by=NETWORK,
        ),
        *when(
            Tied("cls.predictions.decoder.weight", "bert.mlmloss.vocab_dense.weight", same_as=WORDS_HF, layout="vocab hidden"),
            Drop("cls.predictions.bias", "MindFormers' converter writes no bias"),
            Drop("cls.predictions.decoder.bias", "MindFormers' converter writes no bias"),
            Drop("cls.seq_relationship.weight", "MindFormers' converter writes no next-sentence head"),
            Drop("cls.seq_relationship.bias", "MindFormers' converter writes no next-sentence head"),
            named_by=CONVERTER,
        ),
        Drop("bert.embeddings.position_ids", "the numbers 0, 1, 2 and so on"),
    ),
    toy={
        "architectures": ["BertForPreTraining"],
        "model_type": "bert",
        "vocab_size": 331,
        "hidden_size": 96,
        "intermediate_size": 176,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "max_position_embeddings": 22,
        "type_vocab_size": 2,
    },
    source=LLAMA.source,
)
