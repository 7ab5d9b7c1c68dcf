"""The driver model (drivers/base): devices, buses, drivers, classes, modules, uevents."""
