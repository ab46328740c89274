"""HTML pages that open offline: templates beside this file, and what fills them."""
