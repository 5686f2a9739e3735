"""Kills a training again and again and checks that nothing was lost: python -m launch.chaos"""
