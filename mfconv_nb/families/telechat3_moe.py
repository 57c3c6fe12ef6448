"""TeleChat3 with experts (105B-A4B) in MindFormers' mcore layout: the table of DeepSeek-V3, whose names both sides share.

Source: MindFormers 2.1.0, `models/telechat3_moe`: its `weight_mapping`, and its training class. That mapping knows the layer that
predicts a further token as number 46 only, and gives it a place that training does not have; here it is `mtp.layers.0`, as in
DeepSeek-V3. No way back; ours is the inverse. Golden cases `telechat3_moe_mix_mla` and `telechat3_mix_mla`, without their experts.
"""

from mfconv_nb.families.deepseekv3 import FAMILY as DEEPSEEKV3
from mfconv_nb.mapping.rules import derive_family

FAMILY = derive_family(
    DEEPSEEKV3,
    key="telechat3-moe",
    covers="TeleChat3 105B-A4B",
    model_types=("telechat3_moe",),
    run_keys=DEEPSEEKV3.run_keys,
    toy={**DEEPSEEKV3.toy, "architectures": ["TeleChat3MoeForCausalLM"], "model_type": "telechat3_moe"},
)
