"""Why a forge does not go on: what is wrong with what it was given."""


class Refused(Exception):
    """The work cannot be done, and trying again does not help: it ends the job as a permanent error.

    `code` is for programs, `title` a sentence for people, `detail` what it was about: a file and its lines, names of
    layers, figures.
    """

    def __init__(self, code: str, title: str, detail: str = "") -> None:
        super().__init__(f"{code}: {title} {detail}".rstrip())
        self.code = code
        self.title = title
        self.detail = detail
