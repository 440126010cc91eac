"""When to come back, for those who were refused because everything was taken."""


class Places:
    """Gives refused ones the free places that are to come, one after the other.

    Told the same moment, they would all come back at once, and all but one in vain.
    """

    def __init__(self) -> None:
        self._given_s = 0.0

    def retry_after_s(self, now_s: float, interval_s: float, most_s: float) -> float:
        """How long the next refused one should wait, if a place becomes free every `interval_s`.

        At most `most_s`, after which everything that is taken now will have become free: so nobody waits long for
        the places of others who do not come back.
        """
        last_s = max(self._given_s, now_s)
        self._given_s = min(last_s + interval_s, now_s + max(interval_s, most_s))
        return self._given_s - now_s
