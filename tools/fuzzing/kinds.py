"""All kinds of damage by name, with how many of a hundred cases each gets."""

from typing import Final

from fuzzing import damage_data, damage_files, damage_network, damage_options, damage_quantized, damage_size
from fuzzing.case import Damage

KINDS: Final[dict[str, tuple[int, Damage]]] = {
    "network: fields": (14, damage_network.damaged_field),
    "network: bytes": (3, damage_network.damaged_file),
    "network: another": (18, damage_network.other_network),
    "network: size": (2, damage_size.oversized),
    "external data": (5, damage_files.external_data),
    "QDQ: fields": (10, damage_quantized.damaged_field),
    "QDQ: metadata": (8, damage_quantized.damaged_metadata),
    "QDQ: functions": (4, damage_quantized.damaged_function),
    "export": (6, damage_quantized.damaged_export),
    "arrays": (5, damage_data.damaged_arrays),
    "npz": (3, damage_data.damaged_zip),
    "images": (4, damage_data.damaged_images),
    "recipe": (4, damage_files.damaged_recipe),
    "run folder": (2, damage_files.damaged_run),
    "checkpoint": (5, damage_files.damaged_checkpoint),
    "options": (7, damage_options.damaged_options),
}
