"""The demo tokenizer: a byte-level BPE of the Qwen kind, trained on the demo corpus, with the special tokens of the SDAR family behind it."""
import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

BASE_TOKENS = 960
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>",
           "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
# added, but not "special": as in the published folders, skipping special tokens does not remove these
ADDED = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
         "<tool_response>", "</tool_response>", "<think>", "</think>", "<|MASK|>"]
END_OF_TEXT, END_OF_TURN, MASK = BASE_TOKENS, BASE_TOKENS + 2, BASE_TOKENS + len(SPECIAL + ADDED) - 1

CHAT_TEMPLATE = (
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if (message.role == 'user') or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- elif message.role == 'assistant' %}{%- set content = message.content %}"
    "{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}")


def train(texts):
    """Train on an iterable of texts; returns the tokenizer with all its tokens."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=BASE_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
    tok.add_tokens([AddedToken(t, normalized=False) for t in ADDED])
    assert tok.token_to_id("<|endoftext|>") == END_OF_TEXT and tok.token_to_id("<|MASK|>") == MASK, "too little text for the vocabulary"
    return tok


def prompt_text(messages):
    """The chat template for (user, assistant) turns; the last assistant text may be None: then the text ends where the answer starts."""
    text = ""
    for user, assistant in messages:
        text += f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
        if assistant is not None:
            text += f"{assistant}<|im_end|>\n"
    return text


def companions():
    """tokenizer_config.json and special_tokens_map.json."""
    more = SPECIAL[1:] + ["<|MASK|>"]
    flags = lambda text, special: dict(content=text, lstrip=False, normalized=False, rstrip=False, single_word=False, special=special)
    added = {str(BASE_TOKENS + i): flags(t, t in SPECIAL) for i, t in enumerate(SPECIAL + ADDED)}
    config = dict(add_bos_token=False, add_prefix_space=False, added_tokens_decoder=added, additional_special_tokens=more, bos_token=None,
                  clean_up_tokenization_spaces=False, eos_token="<|endoftext|>", mask_token="<|MASK|>", errors="replace", model_max_length=1024,
                  pad_token="<|endoftext|>", split_special_tokens=False, tokenizer_class="Qwen2Tokenizer", unk_token=None, chat_template=CHAT_TEMPLATE)
    names = dict(eos_token="<|endoftext|>", pad_token="<|endoftext|>", mask_token="<|MASK|>", additional_special_tokens=more)
    dump = lambda value: json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return {"tokenizer_config.json": dump(config), "special_tokens_map.json": dump(names)}
