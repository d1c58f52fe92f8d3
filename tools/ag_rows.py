"""The rows of `reproduce_ag.py`: 2-bit DoReFa-Net, in order of worth, and the plain networks at 4 and 8 bits.

Every row of one width starts from one calibrated file, which holds the pretrained weights.
"""

from typing import Any

from experiments import ORIGINAL, ExperimentRow

from qpipe.settings.recipes import RECIPES

AG, SSP = {"method": "ag"}, {"ssp": True}
# As the paper has it: skips are taken out, and nothing else changes before training.
PLAIN = {"plain": True, "strip": "cut"}
# Ours: what is left is refitted before it is calibrated, and learns from the network with skips.
REFITTED = {"recipe": "plain", "teacher": ORIGINAL}
TAUGHT = {"teacher": "float"}
FADE = {"fade": 0.6}
# Table 3's other supervision: alpha is the paper's, which tells no beta.
LOSSES = {"additional_losses": 0.01}
KD = {"joint_distillation": 0.1}
DOREFA = {
    "weight_bits": 2,
    "activation_bits": 2,
    "skip_bits": 8,
    "quantizer": "dorefa",
    "activation_rounding": "nearest",
}


LQ = {bits: {**DOREFA, "weight_bits": bits, "activation_bits": bits, "quantizer": "lq"} for bits in (2, 3)}
BINARY_NETWORKS = {"BiReal-Net": {"quantizer": "bireal"}, "GroupNet, 5 bases": {"quantizer": "groupnet"}}
COMPANY = {"": (), " + AG": (AG,), " + SSP": (SSP,), " + AG + SSP": (AG, SSP)}
# Table 4's: what SSP draws for, and whether weights and activations apart. By default blocks, apart.
POLICIES = (("blocks", "together"), ("layers", "together"), ("layers", "apart"))
BINARY = {"recipe": "ag-binary"}
# Ours, for networks that are to ship; their rate goes with the batch.
SHIPPED = {"recipe": "distilled-4bit"}
SHIPPED_PLAIN = {**SHIPPED, **FADE}
UNCLIPPED = {"gradient_clip": 0.0}
# What may move low widths, each alone.
LEVERS: dict[str, dict[str, Any]] = {
    "EMA": {"ema": 0.999},
    "cosine": {"schedule": "cosine", "warmup": 0.5},
    "gradients to ymax": {"activation_gradient": "ymax"},
    "the best epoch of a held tenth": {"hold_out": 0.1},
}


def rows_of(epochs: int, batch_size: int) -> tuple[ExperimentRow, ...]:
    """All rows at so many epochs."""

    def row(
        name: str, *levers: dict[str, Any], start: dict[str, Any] = DOREFA, leads: bool = False, **more: Any
    ) -> ExperimentRow:
        arguments: dict[str, Any] = {"recipe": "ag", "epochs": epochs, "batch_size": batch_size}
        for lever in levers:
            arguments |= lever
        if arguments["recipe"] in {"distilled-4bit", "plain"}:
            own = RECIPES[arguments["recipe"]]
            arguments["lr"] = own.lr * batch_size / own.batch_size
        return ExperimentRow(f"{name}, {epochs} epochs, batch {batch_size}", start, arguments, leads=leads, **more)

    first = f"8/8 plain, recipe distilled-4bit + fade, unclipped, {epochs} epochs, batch {batch_size}"
    fixed = {bits: {"weight_bits": bits, "activation_bits": bits, "skip_bits": 8} for bits in (4, 8)}
    # What the paper initializes plain networks with: their own counterpart, trained in full precision.
    in_float = {"plain": True, "arithmetic": "float"}
    counterpart = row("plain in float, refitted, recipe plain", REFITTED, in_float, start={})
    return (
        ExperimentRow("float", is_float=True),
        *(
            row(f"{bits}/{bits} plain, refitted, recipe plain", REFITTED, start={**start, "plain": True}, leads=True)
            for bits, start in ((2, DOREFA), (8, fixed[8]), (4, fixed[4]))
        ),
        *(
            row(f"2/2 plain, refitted, recipe plain{more}", REFITTED, *company, start={**DOREFA, "plain": True})
            for more, company in {**COMPANY, ", no teacher": ({"teacher": "none"},)}.items()
            if more
        ),
        # A high rate undoes a start that has anything to lose; at 2 bits it may have nothing.
        *(
            row(
                f"2/2 plain, refitted, recipe distilled-4bit{more}",
                REFITTED,
                SHIPPED,
                *company,
                start={**DOREFA, "plain": True},
            )
            for more, company in {"": (), " + AG + SSP": (AG, SSP)}.items()
        ),
        counterpart,
        *(
            row(f"2/2 plain, of its float counterpart{more}", *company, after=counterpart.name)
            for more, company in COMPANY.items()
        ),
        row("2/2 baseline"),
        row("2/2 plain", PLAIN),
        row("2/2 plain + AG", PLAIN, AG),
        row("2/2 plain + AG + SSP", PLAIN, AG, SSP),
        row("2/2 plain + fade", PLAIN, FADE),
        row("2/2 plain + fade + AG", PLAIN, FADE, AG),
        row("2/2 plain + fade + AG + SSP", PLAIN, FADE, AG, SSP),
        row("2/2 plain + fade + teacher", PLAIN, FADE, TAUGHT),
        row("2/2 plain + fade + teacher + AG", PLAIN, FADE, TAUGHT, AG),
        row("2/2 plain, recipe distilled-4bit + fade", PLAIN, SHIPPED_PLAIN, leads=True),
        row("2/2 plain, recipe distilled-4bit + fade, unclipped", PLAIN, SHIPPED_PLAIN, UNCLIPPED),
        row("2/2 plain, recipe distilled-4bit + fade, unclipped, + AG", PLAIN, SHIPPED_PLAIN, UNCLIPPED, AG),
        row("2/2 plain, recipe distilled-4bit + fade + AG", PLAIN, SHIPPED_PLAIN, AG),
        row("2/2 plain, recipe distilled-4bit + fade + AG + SSP", PLAIN, SHIPPED_PLAIN, AG, SSP),
        row("2/2 baseline, recipe distilled-4bit", SHIPPED, leads=True),
        *(
            row(f"{bits}/{bits} residual, recipe distilled-4bit + {name}", SHIPPED, lever, start=start)
            for bits, start in ((2, DOREFA), (4, fixed[4]))
            for name, lever in LEVERS.items()
        ),
        row("2/2 plain + teacher", PLAIN, TAUGHT),
        row("2/2 baseline + teacher", TAUGHT),
        row("2/2 baseline + AG", AG),
        row("2/2 baseline + AG + SSP", AG, SSP),
        row("2/2 baseline + SSP", SSP),
        row("2/2 plain + KD", PLAIN, KD),
        row("2/2 plain + additional losses", PLAIN, LOSSES),
        row("2/2 baseline + KD", KD),
        row("2/2 baseline + additional losses", LOSSES),
        row("2/2 baseline, float skips, on the executor", float_skips=True),
        row("2/2 plain + AG, layerwise", PLAIN, AG, {"layerwise": True}),
        *(
            row(
                f"{name} + SSP, {fragments}, {draws}",
                lever,
                {"ssp_fragments": fragments, "ssp_draws": draws},
                start=start,
            )
            for name, lever, start in (
                ("2/2 baseline", SSP, DOREFA),
                ("GroupNet, 5 bases", BINARY | SSP, BINARY_NETWORKS["GroupNet, 5 bases"]),
            )
            for fragments, draws in POLICIES
        ),
        *(
            row(f"LQ-Net {bits}/{bits} {name}{more}", *levers, *company, start=start)
            for bits, start in LQ.items()
            for name, levers in (("baseline", ()), ("plain", (PLAIN,)))
            for more, company in COMPANY.items()
        ),
        *(
            row(f"{name}{more}", BINARY, *company, start=start)
            for name, start in BINARY_NETWORKS.items()
            for more, company in COMPANY.items()
        ),
        *(
            line
            for bits, start in fixed.items()
            for line in (
                row(f"{bits}/{bits} residual, recipe distilled-4bit", SHIPPED, start=start, leads=True),
                row(f"{bits}/{bits} residual, recipe distilled-4bit, unclipped", SHIPPED, UNCLIPPED, start=start),
                row(f"{bits}/{bits} plain + fade + teacher", PLAIN, FADE, TAUGHT, start=start),
                row(
                    f"{bits}/{bits} plain, recipe distilled-4bit + fade", PLAIN, SHIPPED_PLAIN, start=start, leads=True
                ),
                row(
                    f"{bits}/{bits} plain, recipe distilled-4bit + fade, unclipped",
                    PLAIN,
                    SHIPPED_PLAIN,
                    UNCLIPPED,
                    start=start,
                ),
            )
        ),
        ExperimentRow(
            f"{first}, then {epochs} more from half its rate",
            fixed[8],
            {
                "recipe": "distilled-4bit",
                "teacher": ORIGINAL,
                **UNCLIPPED,
                "epochs": epochs,
                "batch_size": batch_size,
                "lr": RECIPES["distilled-4bit"].lr * batch_size / RECIPES["distilled-4bit"].batch_size / 2,
            },
            after=first,
        ),
    )
