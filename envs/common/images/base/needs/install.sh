#!/bin/bash
# OAR 2 needs nothing beyond the base image.
