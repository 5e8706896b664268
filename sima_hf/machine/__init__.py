"""This machine: devices, processes that wait for each other, pictures without a screen."""
