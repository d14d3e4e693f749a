"""Makes a prompt of what a language model answered, or says why its answer cannot be one.

The answer is text of anybody: the model's, but also what the user told the model to say. It becomes a prompt, is stored
and is shown, so all that is not plain words is removed here.
"""

import re
import unicodedata

from server.enhance.language import is_chinese, quotations

MAX_ROUNDS = 8
"""So often special tokens are looked for: removing one may make another of what is around it."""


class UnfitAnswerError(Exception):
    """An answer that cannot be a prompt; `str()` says why, as the end of a sentence about the answer."""


# what is joined by these is one letter or one picture
_JOINERS = "\u200c\u200d"
# controls, formats, halves of pairs, private ones and those that no standard knows yet
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn")

_NAMES = "think|thinking|thought|reasoning|reflection"
# the whole up to the last end, as what is thought may be about such tags
_THOUGHTS = re.compile(rf"^.*</(?:{_NAMES})>", re.IGNORECASE | re.DOTALL)
_UNENDED = re.compile(rf"<(?:{_NAMES})>.*$", re.IGNORECASE | re.DOTALL)

_SPECIAL = re.compile(
    # with the name of the role that it introduces
    r"<\|(?:im_start|start_header_id)\|>\s{0,2}(?:assistant|user|system)\b"
    r"|<[|｜][^<>]{0,64}[|｜]>"
    r"|<extra_id_\d{1,4}>"
    r"|</?(?:s|pad|unk|bos|eos|mask|cls|sep|start_of_turn|end_of_turn|start_of_image|image_soft_token)>"
    r"|<unused\d{1,4}>|<0x[0-9A-F]{2}>"
    r"|<</?SYS>>|\[/?INST\]",
    re.IGNORECASE,
)

_FENCED = re.compile(r"```[^\n`]{0,32}\n(.*?)```", re.DOTALL)
_FENCE = re.compile(r"```[^\n`]{0,32}$", re.MULTILINE)

_ASSENT = r"(?:sure|certainly|of course|absolutely|okay|ok|great|yes|好的|当然|没问题|可以)"
_ABOUT = r"(?:prompt|version|description|rewrite|output|result|answer|提示词|提示|版本|描述|改写|扩写|结果)"
# "Sure! Here is the prompt:", "**Enhanced prompt:**", "以下是改写后的提示词："
_PREAMBLE = re.compile(
    rf"^[\s*_#>]*+(?:{_ASSENT}\b)?[^\n:：]{{0,160}}?{_ABOUT}[^\n:：.。]{{0,80}}[:：][\s*_]*", re.IGNORECASE
)
# a line of its own that only assents, or only announces; a scene may begin with the same words
_LINE = re.compile(
    rf"^[\s*_#>]*+(?:{_ASSENT}(?:[!,.:，。！：]|\s+(?:here|i|let)\b|(?=[ *_]*\n))[^\n]{{0,200}}"
    r"|(?:here(?:'s|’s| is| are)\b|以下是|这是)[^\n]{0,200}[:：][ *_]*)\n\s*",
    re.IGNORECASE,
)
_BEGINS_PREAMBLE = re.compile(
    rf"^[\s*_#>]*+(?:{_ASSENT}(?:\s*[!,.:，。！：\n]|\s+(?:here|i|let)\b)|here(?:'s|’s| is| are)\b|below\b|以下|这是"
    rf"|{_ABOUT}|(?:the |your |an? )?"
    r"(?:enhanced|enriched|expanded|improved|rewritten|revised|refined|detailed|final|video)"
    r"\s+(?:\w+\s+)?(?:prompt|version|description|rewrite)\b"
    r"|增强|优化|改写|扩写|润色|视频)",
    re.IGNORECASE,
)
_AFTERWORD = re.compile(
    r"\n\n[ *_#>(]*(?:let me know|i hope (?:this|you|it)\b|i['’]ve (?:added|kept|made|tried|expanded)\b|feel free"
    r"|(?:note|notes|explanation|changes)[ *_]*[:：]|this (?:prompt|version|description|rewrite)|would you like"
    r"|希望(?:这|你|您|对)|如果(?:你|您)|注[：:]|说明[：:]|以上(?:是|为|就)).*$",
    re.IGNORECASE | re.DOTALL,
)
_REFUSAL = re.compile(
    r"^(?:i['’]?m (?:really |very |so )?sorry|i am (?:really |very |so )?sorry|sorry\b|i apologi[sz]e|my apologies"
    r"|i (?:cannot|can['’]?t|can not|won['’]?t|will not|am unable|am not able|must decline)|i['’]m (?:unable|not able)"
    r"|as an ai\b|unfortunately, i"
    r"|抱歉|很抱歉|非常抱歉|对不起|不好意思|我不能|我无法|我没办法|作为(?:一个|一名)?(?:AI|人工智能|语言模型))",
    re.IGNORECASE,
)

_MARKS = {'"': '"', "'": "'", "“": "”", "‘": "’", "„": "“", "«": "»", "「": "」", "『": "』", "`": "`"}


def checked(original: str, answer: str) -> str:
    """The prompt, of any length, that a model's answer to a prompt has. Raises UnfitAnswerError."""
    found = cleaned(answer, original)
    if not found:
        raise UnfitAnswerError("is empty")
    if _REFUSAL.match(found) and not _REFUSAL.match(original.strip()):
        raise UnfitAnswerError("is a refusal")
    if is_chinese(original) != is_chinese(found):
        raise UnfitAnswerError("is in another language")
    if any(_spaced(_visible(quoted)) not in found for quoted in quotations(original)):
        raise UnfitAnswerError("changes what the prompt quotes")
    return found


def cleaned(answer: str, original: str = "") -> str:
    """The words of an answer: without thoughts, preambles, fences, enclosing quotes, special tokens and controls.

    What the original begins with, too, is no preamble. Raises UnfitAnswerError.
    """
    text = _without_special(_visible(answer))
    text = _UNENDED.sub("", _THOUGHTS.sub("", text, count=1))
    fenced = _FENCED.findall(text)
    text = _FENCE.sub("", fenced[0] if len(fenced) == 1 else text).replace("```", "").strip()
    text = _without_preamble(text, original.strip())
    text = _AFTERWORD.sub("", text)
    # what was taken away may have been between the parts of a token
    return _spaced(_without_special(_unquoted(_spaced(text), original)))


def _visible(text: str) -> str:
    """A text without what cannot be seen; its lines are kept."""
    # the other ends of lines
    text = re.sub(r"\r\n?|[\u2028\u2029\x0b\x0c\x85]", "\n", text)
    kept = (each for each in text if each in "\n\t" or each in _JOINERS or unicodedata.category(each) not in _UNSEEN)
    lines = (" ".join(line.split()) for line in "".join(kept).split("\n"))
    # of empty lines one is left
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _without_special(text: str) -> str:
    for _ in range(MAX_ROUNDS):
        text, count = _SPECIAL.subn("", text)
        if not count:
            return text
    raise UnfitAnswerError("has special tokens")


def _without_preamble(text: str, original: str) -> str:
    for pattern in (_LINE, _PREAMBLE):
        found = pattern.match(text)
        if (
            found is not None
            and found.end() < len(text)
            and _BEGINS_PREAMBLE.match(text)
            and not original.casefold().startswith(found[0].strip().casefold())
        ):
            text = text[found.end() :]
    return text.strip()


def _unquoted(text: str, original: str) -> str:
    """A text without marks that enclose the whole of it."""
    text = re.sub(r"^\*\*(.*)\*\*$", r"\1", text)
    end = _MARKS.get(text[:1])
    if end is None or len(text) < 2 or text[-1] not in (end, "”" if end == "“" else end):
        return text
    inside = text[1:-1]
    # two quotations, one at each end
    if text[0] in inside or text[-1] in inside:
        return text
    if inside.strip() in (quoted.strip() for quoted in quotations(original)):
        return text
    return inside.strip()
