"""`python -m bench report`"""
RESULTS=None
