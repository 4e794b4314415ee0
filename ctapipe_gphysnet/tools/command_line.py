"""Command lines of the tools: several files behind an option, no unknown ones."""

import sys

from ctapipe.core import Tool, ToolConfigurationError
from traitlets.config import Config

__all__ = ["CommandLineTool", "repeat_options"]


class CommandLineTool(Tool):
    """A tool of ctapipe whose options take several files, as a shell makes of ``*.h5``.

    ctapipe's own take one value an option, leave others out without a word, and go on
    without an option that they do not know.

    Attributes
    ----------
    file_lists : tuple of str
        Traits whose options take several files.
    takes_arguments : bool
        Whether there may be arguments that belong to no option.
    """

    file_lists = ("inputs",)
    takes_arguments = False

    def parse_command_line(self, argv=None):
        """See `traitlets.config.Application`.

        Raises
        ------
        ctapipe.core.ToolConfigurationError
            If there is an unknown option, or an argument that belongs to none.
        """
        argv = sys.argv[1:] if argv is None else argv
        super().parse_command_line(repeat_options(argv, self._options_for_files()))
        for name, value in self.cli_config.items():
            if not isinstance(value, Config):
                raise ToolConfigurationError(f"there is no option --{name}; see --help")
            if name not in self._known_classes():
                self.log.warning(
                    "%s is none of the classes with options that --help-all shows; has"
                    " it been misspelt?",
                    name,
                )
        if self.extra_args and not self.takes_arguments:
            raise ToolConfigurationError(
                f"{' '.join(self.extra_args)}: to which option does this belong?"
            )

    def _known_classes(self):
        return {c.__name__ for own in [type(self), *self.classes] for c in own.__mro__}

    def _options_for_files(self):
        options = set()
        for names, target in self.aliases.items():
            if target.partition(".")[2] in self.file_lists:
                names = [names] if isinstance(names, str) else names
                options |= {f"-{n}" if len(n) == 1 else f"--{n}" for n in names}
                options.add(f"--{target}")
        return options


def repeat_options(arguments, options):
    """Arguments in which each value has an option before it.

    Parameters
    ----------
    arguments : iterable of str
        Of a command line.
    options : collection of str
        Those that may have several values, such as "--input".

    Returns
    -------
    list of str
        "-i a b" as "-i a -i b".
    """
    repeated, option, has_value = [], None, False
    for word in arguments:
        if word.startswith("-"):
            name, equals, _ = word.partition("=")
            option, has_value = name if name in options else None, bool(equals)
        else:
            if option and has_value:
                repeated.append(option)
            has_value = True
        repeated.append(word)
    return repeated
