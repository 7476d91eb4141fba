"""convolt"""
