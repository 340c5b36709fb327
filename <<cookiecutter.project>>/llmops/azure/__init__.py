"""The only package that imports an Azure SDK; each function imports it when it is called."""
