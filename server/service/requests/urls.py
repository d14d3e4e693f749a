"""URLs in the place of images: whether the server fetches them."""

from server.core.errors import InvalidParamsError
from server.core.settings import SecuritySettings
from server.media.fetch import addresses
from server.media.limits import RefusedInputError
from server.service.requests.inputs import IMAGE


def checked_url(url: str, settings: SecuritySettings) -> str:
    """A URL without the spaces around it. Raises InvalidParamsError if it is not, as far as the URL itself tells."""
    if settings.fetch_urls == "off":
        raise InvalidParamsError(
            f"{IMAGE} must be the image itself, in base64 or as a data URL: this server does not fetch URLs."
        )
    try:
        addresses.checked_url(url)
    except RefusedInputError as error:
        raise InvalidParamsError(f"{IMAGE} {error}.") from None
    return url.strip()
