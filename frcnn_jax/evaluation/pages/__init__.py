"""HTML pages that open offline: templates beside this file, and the code that fills them."""
