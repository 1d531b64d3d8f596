"""The files of a Qwen3-VL's processor: tokenizer, chat template, images, videos."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from periscope_testing.files import write_json

# A system turn and a user turn as the published template makes them: contents in their order, nothing between them.
_CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for content in message.content %}
            {%- if content.type == 'image' %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif content.type == 'video' %}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in content %}
                {{- content.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
_PATCHES = {
    "processor_class": "Qwen3VLProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
}


def write_processor(folder: Path, tokenizer: Tokenizer) -> None:
    """Write what the published processor is loaded from."""
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer",
            "chat_template": _CHAT_TEMPLATE,
            "pad_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "bos_token": None,
            "unk_token": None,
            "model_max_length": 262144,
        },
        "chat_template.json": {"chat_template": _CHAT_TEMPLATE},
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "size": {"shortest_edge": 65536, "longest_edge": 16777216},
            **_PATCHES,
        },
        "video_preprocessor_config.json": {
            "video_processor_type": "Qwen3VLVideoProcessor",
            "size": {"shortest_edge": 4096, "longest_edge": 25165824},
            "do_sample_frames": True,
            "fps": 2,
            "min_frames": 4,
            "max_frames": 768,
            **_PATCHES,
        },
    }
    for name, data in files.items():
        write_json(folder / name, data)
