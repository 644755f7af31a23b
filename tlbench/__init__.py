"""tlbench: which pretrained backbone, adapted how, is best for my data, on my hardware, within my budget?"""
