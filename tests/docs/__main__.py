"""Write every generated part of the documents."""

from tests.docs.pages import PAGES

for page in PAGES:
    page.path.write_text(page.generated(), "utf-8")
