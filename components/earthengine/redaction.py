"""Credentials are taken out of whatever text is told: errors, logs, reports.

A service's error repeats the request, a library's exception the URL with its query, and neither is ours to word. What
is taken out is what Google Cloud's credentials look like, and what stands where HTTP and URLs have credentials:

- the values of Authorization headers, of cookies and of headers with keys, and a bearer token anywhere
- OAuth 2.0 access and refresh tokens, client secrets, API keys and JSON Web Tokens
- what signs a URL (X-Goog-*, GoogleAccessId with Signature), and the id of a resumable upload, which permits it
- user and password in a URL, or a token in their place; a password that is named so
- private keys, as PEM and as in the JSON of a service account
"""

import logging
import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

REMOVED = "[removed]"

# Up to what ends a value in a URL, in a header's line, in JSON and in Python's repr; not what was taken out already, or
# is a private key's, which has blanks.
_VALUE = rf"""(?!\[?(?:b?\\?["'])?{re.escape(REMOVED)}|-----BEGIN)""" + r"""[^\s"'<>&;,()\]}\\]+"""
# Where a word begins, also after a line's end, & and ? as JSON writes them.
_BEGIN = r"(?:(?<![\w-])|(?<=\\[nrt])|(?<=\\u0026)|(?<=\\u003f))"
# A colon or an equals sign, or the comma of a pair in Python's repr, with the quotes and the list's bracket around it.
_EQUALS = r"(?:[:=]|\\{1,2}u003d)"
_TO = rf"""(?:\\?["'])?\s{{0,3}}{_EQUALS}\s{{0,3}}(?:\[(?!removed\]))?"""
_IS = rf"""(?:{_TO}(?:b?\\?["'])?|["'],\s?b?["'])"""
_NAMES = (
    r"X-Goog-(?:Signature|Credential|Security-Token|Encryption-Key|IAM-Authorization-Token|Api-Key|IAP-JWT-Assertion)"
    r"|GoogleAccessId|upload_id|access_?token|refresh_?token|id_?token|client_?secret|passw(?:or)?d"
)
_WORDS_OF_NAMES = "x-goog- googleaccessid upload_id token client passw"
# Such as in DB_PASSWORD as well.
_NAMED = rf"(?:{_BEGIN}|(?<=_))((?:{_NAMES})"
_COOKIE = rf"(?:Set-)?Cookie{_IS}"
_OF_COOKIE = rf"""(?:(?!{_COOKIE}|-----BEGIN)[^\s;"'\\])"""
# Ordinary words, so in a URL's query alone.
_NAMES_IN_QUERY = r"signature|sig|key|token|assertion"
_EQUALS_IN_QUERY = r"(?:=|\\{1,2}u003d)"
# What to look for, what to put in its place, and words, in lower case, of which one stands wherever it is found: most
# texts have none of them, and to look for words takes a fifth of the time.
_RULES = tuple(
    (re.compile(pattern, flags), put, words.split())
    for pattern, put, words, flags in (
        # What goes by a name first: cookies, and a private key without its end, would take the name and leave the rest.
        (
            r"""(?<=://)(?:[^\s/?#@:"'<>\\]*:[^\s/?#"'<>\\]*|[^\s/?#@:"'<>\\]{16,})@""",
            f"{REMOVED}@",
            "://",
            0,
        ),
        # In quotes, up to the same one: a value may have blanks and what else ends one that stands bare.
        (
            rf"""{_NAMED}(?:{_TO}b?|["'],\s?b?))(\\?["'])(?!{re.escape(REMOVED)})(?:(?!\2)\\*[^\\\n]){{1,400}}\2""",
            rf"\1\2{REMOVED}\2",
            _WORDS_OF_NAMES,
            re.IGNORECASE,
        ),
        (rf"{_NAMED}{_IS}){_VALUE}", rf"\1{REMOVED}", _WORDS_OF_NAMES, re.IGNORECASE),
        (
            rf"(Authorization{_IS})(?:(?:Bearer|Basic|Digest|Negotiate)\s+)?{_VALUE}",
            rf"\1{REMOVED}",
            "authorization",
            re.IGNORECASE,
        ),
        (rf"{_BEGIN}(Bearer[\s+]+)[\w.~+/=%-]{{16,}}", rf"\1{REMOVED}", "bearer", re.IGNORECASE),
        (
            rf"((?:[?&;]|\\u0026|\\u003f)(?:{_NAMES_IN_QUERY}){_EQUALS_IN_QUERY}){_VALUE}",
            rf"\1{REMOVED}",
            "sig key token assertion",
            re.IGNORECASE,
        ),
        (
            rf"{_BEGIN}({_COOKIE})[\w.-]+={_OF_COOKIE}*(?:;\s?{_OF_COOKIE}+)*",
            rf"\1{REMOVED}",
            "cookie",
            re.IGNORECASE,
        ),
        (
            r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----(?:[\w+/=\s\\:,.]|-(?!----))*"
            r"(?:-----END [A-Z ]{0,20}PRIVATE KEY-----)?",
            REMOVED,
            "-----begin",
            0,
        ),
        (rf"{_BEGIN}ya29\.[\w.-]+", REMOVED, "ya29.", 0),
        (rf"{_BEGIN}1//0[\w-]{{30,}}", REMOVED, "1//0", 0),
        (rf"{_BEGIN}GOCSPX-[\w-]{{10,}}", REMOVED, "gocspx-", 0),
        (rf"{_BEGIN}AIza[\w-]{{30,}}", REMOVED, "aiza", 0),
        (rf"{_BEGIN}eyJ[\w-]{{5,}}\.[\w-]+\.[\w-]*", REMOVED, "eyj", 0),
    )
)
# What may be of a URL that stands in another one's query, and that in another one's.
_LAYERS = 3
_WORD = re.compile(r"""[^\s"'<>]+""")
_SAFE = "/:?#[]{}@!$&()*+,;=~|\\"


def redact(text: str) -> str:
    """A text with its credentials taken out; all else stays as it is."""
    text = _ruled(text)
    return _WORD.sub(lambda found: _decoded(found[0]), text) if "%" in text else text


def _ruled(text: str) -> str:
    folded = text.casefold()
    for pattern, put, words in _RULES:
        if any(word in folded for word in words):
            text = pattern.sub(put, text)
    return text


def _decoded(word: str, layers: int = _LAYERS) -> str:
    plain = unquote(word)
    if plain == word or not layers:
        return word
    told = _decoded(_ruled(plain), layers - 1)
    return word if told == plain else quote(told, safe=_SAFE)


class _Record(logging.LogRecord):
    def __init__(self, *args: Any, **keys: Any) -> None:
        super().__init__(*args, **keys)
        if self.exc_info and self.exc_info[0]:
            # Formatters take this where it is there, and else the exceptions' own words.
            self.exc_text = _traceback(*self.exc_info)

    def getMessage(self) -> str:  # noqa: N802  logging's name
        return redact(super().getMessage())


def redact_output() -> None:
    """From now on take credentials out of all that this process logs, and of exceptions that nobody catches."""
    logging.setLogRecordFactory(_Record)
    sys.excepthook = _tell
    # Whoever collects these, as pytest does, goes on to.
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _tell_of_thread
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _tell_of_unraisable


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(f"{_traceback(kind, error, trace)}\n")


def _tell_of_thread(ended: threading.ExceptHookArgs) -> None:
    if not issubclass(ended.exc_type, SystemExit):
        name = ended.thread.name if ended.thread else ""
        told = _traceback(ended.exc_type, ended.exc_value, ended.exc_traceback)
        sys.stderr.write(f"Exception in thread {name}:\n{told}\n")


def _tell_of_unraisable(ended: Any) -> None:
    if sys.is_finalizing():  # nothing can be imported any more, not even by what takes credentials out
        return
    told = _traceback(ended.exc_type, ended.exc_value, ended.exc_traceback)
    sys.stderr.write(redact(f"{ended.err_msg or 'Exception ignored in'}: {ended.object!r}\n") + f"{told}\n")


def _traceback(kind: Any, error: Any, trace: Any) -> str:
    """With its causes, which say in their own words what failed."""
    return redact("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))
