"""The report as a page: template, style and the few lines of script that it carries inline."""
