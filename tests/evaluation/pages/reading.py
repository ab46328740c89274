"""Pages read back."""

import html.parser
import json


class Page(html.parser.HTMLParser):
    """Links, words and embedded data of a page; words of styles and scripts are left out."""

    def __init__(self, text):
        super().__init__()
        self.links, self.words, self.data, self._inside = [], [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag in ("style", "script"):
            self._inside.append(attributes.get("id"))

    def handle_endtag(self, tag):
        if tag in ("style", "script"):
            self._inside.pop()

    def handle_data(self, data):
        if not self._inside:
            self.words += data.split()
        elif self._inside[-1]:
            self.data[self._inside[-1]] = json.loads(data)
