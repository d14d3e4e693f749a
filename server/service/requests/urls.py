"""URLs in the place of inputs: whether the server fetches them."""

from server.core.errors import InvalidParamsError
from server.core.settings.sections import SecuritySettings
from server.media.fetch import addresses
from server.media.limits import RefusedInputError


def checked_url(name: str, url: str, settings: SecuritySettings) -> str:
    """A URL, the parameter `name`, without the spaces around it.

    Raises InvalidParamsError if the server does not fetch it, as far as the URL itself tells.
    """
    if settings.fetch_urls == "off":
        raise InvalidParamsError(
            f"{name} must be the file itself, in base64 or as a data URL: this server does not fetch URLs."
        )
    try:
        addresses.checked_url(url)
    except RefusedInputError as error:
        raise InvalidParamsError(f"{name} {error}.") from None
    return url.strip()
