"""Stock model classes of vLLM with the mixins in front: a module for each of vLLM's own.

The registry looks a class up here by the name of its architecture, and vLLM's code looks at class names: they are the
stock ones.
"""
